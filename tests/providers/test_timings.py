"""Each engine's own fields to seconds: documented samples, the traps between engines, and everything malformed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from llmtrace.observe import internal_errors
from llmtrace.observe.answer import ServerTimings
from llmtrace.providers import timings as module
from llmtrace.providers.engines import ENGINES
from llmtrace.providers.timings import pick_headers, read_processing_time, read_route, read_timings
from tests.support.replay import shared_folder

DURATIONS = ("queue", "kv_cache_hit", "prefill", "decode", "ttft", "total")
DOCS = Path(__file__).parents[2] / "docs" / "providers" / "openai-compatible.md"


def told(timings: ServerTimings | None) -> dict[str, float]:
    """The durations that were told."""
    assert timings is not None
    return {name: value for name in DURATIONS if (value := getattr(timings, name)) is not None}


def seconds(**expected: float) -> Any:
    return pytest.approx(expected, rel=1e-12, abs=1e-15)


GROQ = {
    "queue_time": 0.0021,
    "prompt_tokens": 99,
    "prompt_time": 0.0049,
    "completion_tokens": 40,
    "completion_time": 0.0402,
    "total_tokens": 139,
    "total_time": 0.0451,
    "prompt_tokens_details": {"cached_tokens": 64},
}
CEREBRAS = {
    "queue_time": 0.000073161,
    "prompt_time": 0.0010744798888888889,
    "completion_time": 0.005658071111111111,
    "total_time": 0.022224903106689453,
    "created": 1723733419,
}
FIREWORKS = {
    "prompt-tokens": "300",
    "cached-prompt-tokens": "160",
    "server-time-to-first-token": "0.25",
    "server-processing-time": "1.25",
    "tokenizer-queue-duration": "0.0001",
    "tokenizer-duration": "0.002",
    "prefill-queue-duration": "0.02",
    "prefill-duration": "0.2",
    "generation-queue-duration": "0.05",
    "generation-duration": "0.95",
    "num-concurrent-requests": "12",
}
VLLM = {
    "time_to_first_token_ms": 85.2,
    "generation_time_ms": 1240.5,
    "queue_time_ms": 12.3,
    "mean_itl_ms": 9.1,
    "tokens_per_second": 103.2,
    "output_token_metrics": {"content": {"time_to_first_token_ms": 268.22, "generation_time_ms": 210.0}},
}
REFERENCE = VLLM | {"kv_cache_hit_time_ms": 5.2, "timed_by": "cuda", "engine": "llmtrace-reference"}
LLAMA_CPP = {
    "cache_n": 60,
    "prompt_n": 8,
    "prompt_ms": 43.237,
    "prompt_per_token_ms": 5.404625,
    "predicted_n": 25,
    "predicted_ms": 238.74,
    "predicted_per_second": 104.71642791321104,
}
SAMBANOVA = {
    "prompt_tokens": 42,
    "start_time": 1719000000.12,
    "end_time": 1719000001.02,
    "time_to_first_token": 0.11,
    "total_latency": 0.9,
    "completion_tokens_per_sec": 142.2,
}
DYNAMO = {
    "request_received_ms": 1777312800000,
    "prefill_wait_time_ms": 12.1,
    "prefill_time_ms": 70.3,
    "ttft_ms": 82.4,
    "total_time_ms": 1000.1,
    "kv_hit_rate": 0.875,
}
TENSORRT = (
    "server_queue;dur=0.538000, server_ttft;dur=126.554000, server_e2e;dur=1297.578000, server_kv_transfer;dur=3.1"
)
TGI = {
    "x-compute-type": "1-nvidia-a10g",
    "x-compute-time": "0.734",
    "x-total-time": "734",
    "x-validation-time": "2",
    "x-queue-time": "30",
    "x-inference-time": "702",
    "x-time-per-token": "35",
}
SGLANG = {
    "prompt_tokens": 300,
    "cached_tokens": 160,
    "queue_time": 0.012,
    "forward_entry_time": 1719000000.10,
    "prefill_finished_time": 1719000000.25,
    "request_received_ts": 1719000000.08,
    "first_token_latency": 0.17,
    "request_finished_ts": 1719000001.10,
    "e2e_latency": 1.02,
}
OPENROUTER = {"requested": "x/y", "attempt": 1, "generation_time": 1200}


class TestSamples:
    """What each engine documents, in seconds."""

    def test_groq_usage(self) -> None:
        timings = read_timings({"x_groq": {"id": "req_x"}}, GROQ)
        assert timings is not None
        assert timings.engine == "groq"
        assert told(timings) == seconds(queue=0.0021, prefill=0.0049, decode=0.0402, total=0.0472)

    def test_groq_stream_end(self) -> None:
        assert told(read_timings({"x_groq": {"id": "req_x", "usage": GROQ}}, {})) == told(read_timings({}, GROQ))

    def test_groq_extra_usage_without_times_leaves_the_usage(self) -> None:
        timings = read_timings({"x_groq": {"id": "req_x", "usage": {"dram_cached_tokens": 3}}}, GROQ)
        assert told(timings) == told(read_timings({}, GROQ))

    def test_cerebras(self) -> None:
        timings = read_timings({"time_info": CEREBRAS}, {})
        assert timings is not None
        assert timings.engine == "cerebras"
        assert told(timings) == seconds(
            queue=0.000073161, prefill=0.0010744798888888889, decode=0.005658071111111111, total=0.022224903106689453
        )

    def test_fireworks_dedicated(self) -> None:
        timings = read_timings({"perf_metrics": FIREWORKS}, {})
        assert timings is not None
        assert (timings.engine, timings.cached_tokens) == ("fireworks", 160)
        assert told(timings) == seconds(queue=0.0221, prefill=0.2, decode=1.0, ttft=0.25, total=1.25)

    def test_fireworks_serverless(self) -> None:
        serverless = {"server-time-to-first-token": "0.25", "server-processing-time": "1.25", "prompt-tokens": "300"}
        assert told(read_timings({"perf_metrics": serverless}, {})) == seconds(ttft=0.25, decode=1.0, total=1.25)

    def test_fireworks_headers(self) -> None:
        headers = {f"fireworks-{name}": value for name, value in FIREWORKS.items()} | {"prefill-duration": "9"}
        assert read_timings({}, {}, headers) == read_timings({"perf_metrics": FIREWORKS}, {})

    def test_fireworks_stream_without_opting_in(self) -> None:
        headers = {"fireworks-prompt-tokens": "300", "fireworks-server-time-to-first-token": "0.25"}
        assert told(read_timings({}, {}, headers)) == seconds(ttft=0.25)

    def test_fireworks_generation_queue_has_no_known_side_of_the_first_token(self) -> None:
        durations = {name: value for name, value in FIREWORKS.items() if name.endswith("-duration")}
        assert told(read_timings({"perf_metrics": durations}, {}))["decode"] == 0.95

    def test_vllm(self) -> None:
        timings = read_timings({"metrics": VLLM}, {"prompt_tokens": 42})
        assert timings is not None
        assert (timings.engine, timings.device) == ("vllm", False)
        assert told(timings) == seconds(queue=0.0123, prefill=0.0852, decode=1.2405)

    @pytest.mark.parametrize(("timed_by", "device"), [("cuda", True), ("host", False)])
    def test_reference(self, timed_by: str, device: bool) -> None:
        timings = read_timings({"metrics": REFERENCE | {"timed_by": timed_by}}, {})
        assert timings is not None
        assert (timings.engine, timings.device) == ("llmtrace-reference", device)
        assert told(timings) == seconds(queue=0.0123, kv_cache_hit=0.0052, prefill=0.08, decode=1.2405)

    def test_reference_without_a_hit(self) -> None:
        cold = {name: value for name, value in REFERENCE.items() if name != "kv_cache_hit_time_ms"}
        for metrics in (cold, cold | {"kv_cache_hit_time_ms": None}):
            assert told(read_timings({"metrics": metrics}, {})) == seconds(queue=0.0123, prefill=0.0852, decode=1.2405)

    def test_llama_cpp(self) -> None:
        timings = read_timings({"timings": LLAMA_CPP}, {"prompt_tokens": 68})
        assert timings is not None
        assert (timings.engine, timings.cached_tokens) == ("llama.cpp", 60)
        assert told(timings) == seconds(prefill=0.043237, decode=0.23874)

    def test_omlx_is_not_sambanova(self) -> None:
        usage = {
            "prompt_tokens": 42,
            "completion_tokens": 128,
            "time_to_first_token": 0.11,
            "total_time": 0.9,
            "prompt_eval_duration": 0.1,
            "generation_duration": 0.79,
            "model_load_duration": 0.0,
        }
        timings = read_timings({}, usage)
        assert timings is not None
        assert timings.engine == "omlx"
        assert read_timings({}, {"time_to_first_token": 0.11}) is None
        assert read_timings({}, {"queue_time": 0.1, "total_time": 0.9}) is None

    def test_sambanova(self) -> None:
        timings = read_timings({}, SAMBANOVA)
        assert timings is not None
        assert timings.engine == "sambanova"
        assert told(timings) == seconds(ttft=0.11, decode=0.79, total=0.9)

    def test_dynamo(self) -> None:
        timings = read_timings({"nvext": {"worker_id": {"decode_worker_id": 2}, "timing": DYNAMO}}, {})
        assert timings is not None
        assert timings.engine == "dynamo"
        assert told(timings) == seconds(queue=0.0121, prefill=0.0703, ttft=0.0824, decode=0.9177, total=1.0001)

    def test_dynamo_as_its_page_shows_it(self) -> None:
        assert told(read_timings({"nvext": {"timing": {"ttft_ms": 45.2, "itl_ms": 12.1}}}, {})) == seconds(ttft=0.0452)

    def test_dynamo_completes_what_two_of_three_say(self) -> None:
        timing = {"ttft_ms": 82.4, "prefill_time_ms": 70.3}
        assert told(read_timings({"nvext": {"timing": timing}}, {})) == seconds(
            ttft=0.0824, prefill=0.0703, queue=0.0121
        )

    def test_tensorrt_llm(self) -> None:
        header = read_timings({}, {}, {"server-timing": TENSORRT})
        event = read_timings({"Server-Timing": TENSORRT, "X-TRTLLM-Start-End-Time": "server-start;ts=76735.2"}, {})
        assert header is not None
        assert header == event
        assert header.engine == "tensorrt-llm"
        assert told(header) == seconds(queue=0.000538, prefill=0.126016, ttft=0.126554, decode=1.171024, total=1.297578)

    def test_tensorrt_llm_disaggregated(self) -> None:
        header = "disagg_queue;dur=2.0, disagg_ttft;dur=60.0, ctx_queue;dur=3.0, ctx_ttft;dur=50.0, gen_e2e;dur=400.0"
        assert told(read_timings({}, {}, {"server-timing": header})) == seconds(queue=0.005, prefill=0.047, ttft=0.06)

    def test_tgi(self) -> None:
        timings = read_timings({}, {}, TGI)
        assert timings is not None
        assert timings.engine == "tgi"
        assert told(timings) == seconds(queue=0.032, total=0.734)

    @pytest.mark.parametrize(
        "fields",
        [{"meta_info": SGLANG}, {"meta_info": [SGLANG]}, {"choices": [{"index": 0, "meta_info": SGLANG}]}],
        ids=["top", "list", "choice"],
    )
    def test_sglang(self, fields: dict[str, Any]) -> None:
        timings = read_timings(fields, {})
        assert timings is not None
        assert (timings.engine, timings.cached_tokens) == ("sglang", 160)
        expected = {"queue": 0.012, "prefill": 0.15, "decode": 0.85, "ttft": 0.17, "total": 1.02}
        assert told(timings) == pytest.approx(expected, abs=5e-7)  # a double holds unix seconds to 0.24 us

    def test_sglang_without_metrics(self) -> None:
        assert told(read_timings({"meta_info": {"e2e_latency": 1.02, "cached_tokens": 0}}, {})) == seconds(total=1.02)

    def test_openrouter(self) -> None:
        timings = read_timings({"openrouter_metadata": OPENROUTER}, {"prompt_tokens": 1, "cost": 0.1})
        assert timings is not None
        assert timings.engine == "openrouter"
        assert told(timings) == seconds(total=1.2)

    def test_a_gateway_speaks_last(self) -> None:
        timings = read_timings({"openrouter_metadata": OPENROUTER}, GROQ)
        assert timings is not None
        assert timings.engine == "groq"


class TestTraps:
    def test_groq_total_leaves_the_queue_out(self) -> None:
        timings = read_timings({}, GROQ)
        assert timings is not None
        assert timings.total == pytest.approx(GROQ["total_time"] + GROQ["queue_time"])

    def test_groq_without_a_queue_time_has_no_total(self) -> None:
        timings = read_timings({"x_groq": {"id": "req_x"}}, GROQ | {"queue_time": None})
        assert told(timings) == seconds(prefill=0.0049, decode=0.0402)

    def test_cerebras_total_is_not_the_sum(self) -> None:
        durations = told(read_timings({"time_info": CEREBRAS}, {}))
        assert durations["total"] > 3 * (durations["queue"] + durations["prefill"] + durations["decode"])

    def test_first_token_times_that_do_not_start_alike(self) -> None:
        # 85.2 ms of vLLM's begin when the request is scheduled, of TensorRT-LLM's when it arrives.
        vllm = told(read_timings({"metrics": {"time_to_first_token_ms": 85.2, "queue_time_ms": 12.3}}, {}))
        header = {"server-timing": "server_ttft;dur=85.2, server_queue;dur=12.3"}
        tensorrt = told(read_timings({}, {}, header))
        assert vllm == seconds(queue=0.0123, prefill=0.0852)
        assert tensorrt == seconds(queue=0.0123, prefill=0.0729, ttft=0.0852)

    def test_sglang_clocks_that_were_never_set(self) -> None:
        unset = SGLANG | {"forward_entry_time": 0.0, "prefill_finished_time": 0.0}
        assert told(read_timings({"meta_info": unset}, {})) == seconds(queue=0.012, ttft=0.17, total=1.02, decode=0.85)

    def test_sglang_clocks_of_two_epochs(self) -> None:
        mixed = SGLANG | {"forward_entry_time": 5021.5}
        assert "prefill" not in told(read_timings({"meta_info": mixed}, {}))

    def test_together_has_a_header_of_tgis_name(self) -> None:
        headers = {
            "x-inference-time": "6214",
            "x-inference-version": "v2",
            "x-api-received": "2024-06-06T18:17:42.588Z",
        }
        assert read_timings({}, {}, headers) is None

    def test_google_and_cloudflare_server_timing(self) -> None:
        for header in ("gfet4t7; dur=812", 'cfExtPri, cfL4;desc="?proto=TCP&rtt=1200&server_queue;dur=5"'):
            assert read_timings({}, {}, {"server-timing": header}) is None

    @pytest.mark.parametrize(
        ("header", "expected"),
        [
            ("server_queue;dur=1.5", {"queue": 0.0015}),
            ('server_queue ; desc="a, b;dur=9" ; DUR="1.5" , server_e2e;dur=2', {"queue": 0.0015, "total": 0.002}),
            ("server_queue;dur=1, server_queue;dur=2", {"queue": 0.001}),
            ("gfet4t7;dur=3,server_queue;dur=1", {"queue": 0.001}),
            ("server_queue, server_e2e;dur=2", {"total": 0.002}),
            ("server_queue;dur=, server_e2e;dur=2", {"total": 0.002}),
            (',, ;;, server_e2e;dur=2;x="', {"total": 0.002}),
        ],
    )
    def test_server_timing_grammar(self, header: str, expected: dict[str, float]) -> None:
        beside = "server_kv_transfer;dur=1, gen_ttft;dur=1,"  # so that an engine is known by more than one field
        assert told(read_timings({}, {}, {"server-timing": beside + header})) == pytest.approx(expected)

    def test_opaque_totals_are_no_phase(self) -> None:
        headers = {"openai-processing-ms": "122", "x-envoy-upstream-service-time": "130", "server-timing": "x;dur=1"}
        assert read_timings({}, {"prompt_tokens": 3}, headers | {"x-litellm-response-duration-ms": "140.1"}) is None

    def test_no_timings(self) -> None:
        assert read_timings({}, {}) is None
        assert read_timings({"metrics": None, "x_groq": {"id": "r"}, "choices": []}, {"prompt_tokens": 1}, {}) is None
        assert read_timings({"metrics": {"latencyMs": 12}}, {}) is None

    @pytest.mark.parametrize(
        ("fields", "usage"),
        [
            ({"metrics": {"queue_time_ms": 3, "tokens": 5}}, {}),
            ({"timings": {"predicted_ms": 10}}, {}),
            ({"timings": {"prompt_ms": 10, "total": 12}}, {}),
            ({"time_info": {"total_time": 0.5}}, {}),
            ({"Server-Timing": "server_queue;dur=5"}, {}),
            ({}, {"total_latency": 0.9}),
            ({}, {"total_prompt_time_sec": 0.9}),
        ],
    )
    def test_one_field_is_anybodys(self, fields: dict[str, Any], usage: dict[str, Any]) -> None:
        assert read_timings(fields, usage) is None

    def test_two_fields_are_an_engines_own(self) -> None:
        for metrics in ({"queue_time_ms": 3, "mean_itl_ms": 5}, {"queue_time_ms": 3, "generation_time_ms": 5}):
            timings = read_timings({"metrics": metrics}, {})
            assert timings is not None
            assert timings.engine == "vllm"
        timings = read_timings({"timings": {"predicted_n": 2, "predicted_ms": 10}}, {})
        assert timings is not None
        assert timings.engine == "llama.cpp"

    def test_a_hit_longer_than_its_prefill(self) -> None:
        metrics = REFERENCE | {"kv_cache_hit_time_ms": 85.3}
        assert told(read_timings({"metrics": metrics}, {})) == seconds(queue=0.0123, kv_cache_hit=0.0853, decode=1.2405)

    def test_a_first_token_after_the_end(self) -> None:
        assert told(read_timings({}, SAMBANOVA | {"total_latency": 0.1})) == seconds(ttft=0.11, total=0.1)


BAD = [True, False, None, math.nan, math.inf, -math.inf, -0.001, 1e10, 10**400, "", "n/a", "nan", "inf", "-1", "1_0"]
BAD += ["9" * 50, [], [0.2], {}, {"value": 0.2}, b"0.2", 1j, object()]


class TestBadValues:
    @pytest.mark.parametrize("bad", BAD, ids=lambda bad: repr(bad)[:20])
    def test_one_bad_field_costs_that_field_only(self, bad: Any) -> None:
        assert told(read_timings({}, GROQ | {"prompt_time": bad})) == seconds(queue=0.0021, decode=0.0402, total=0.0472)
        metrics = VLLM | {"time_to_first_token_ms": bad}
        assert told(read_timings({"metrics": metrics}, {})) == seconds(queue=0.0123, decode=1.2405)

    @pytest.mark.parametrize("bad", BAD, ids=lambda bad: repr(bad)[:20])
    def test_nothing_valid_is_nothing(self, bad: Any) -> None:
        assert read_timings({"metrics": dict.fromkeys(VLLM, bad)}, {}) is None
        assert read_timings({"timings": dict.fromkeys(LLAMA_CPP, bad) | {"cache_n": 60}}, {}) is None

    @pytest.mark.parametrize("bad", [bad for bad in BAD if bad is not None], ids=lambda bad: repr(bad)[:20])
    def test_a_bad_hit_leaves_prefill_unknown(self, bad: Any) -> None:
        # It is inside the first token's time: what is left cannot be told.
        timings = read_timings({"metrics": REFERENCE | {"kv_cache_hit_time_ms": bad}}, {})
        assert told(timings) == seconds(queue=0.0123, decode=1.2405)

    @pytest.mark.parametrize("bad", [*BAD, 2.5], ids=lambda bad: repr(bad)[:20])
    def test_bad_token_counts(self, bad: Any) -> None:
        timings = read_timings({"timings": LLAMA_CPP | {"cache_n": bad}}, {})
        assert timings is not None
        assert timings.cached_tokens is None

    def test_llama_cpps_absurd_time(self) -> None:
        assert told(read_timings({"timings": LLAMA_CPP | {"prompt_ms": 5706760300}}, {})) == seconds(decode=0.23874)

    def test_text_and_whole_numbers_are_numbers(self) -> None:
        metrics = {"queue_time_ms": " 12.3 ", "time_to_first_token_ms": 85, "generation_time_ms": "1.2e3"}
        assert told(read_timings({"metrics": metrics}, {})) == seconds(queue=0.0123, prefill=0.085, decode=1.2)

    def test_zero_is_a_duration(self) -> None:
        timings = read_timings({"metrics": {"queue_time_ms": 0, "generation_time_ms": -0.0}}, {})
        assert told(timings) == {"queue": 0.0, "decode": 0.0}
        assert math.copysign(1, told(timings)["decode"]) == 1


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")


class TestShapes:
    """Plain JSON, the clients' own models, and the headers of both httpx generations."""

    def test_models_at_every_level(self) -> None:
        assert read_timings({"x_groq": Extra(usage=Extra(**GROQ))}, {}) == read_timings({}, GROQ)  # type: ignore[arg-type]
        assert read_timings({"perf_metrics": Extra(**FIREWORKS)}, {}) == read_timings({"perf_metrics": FIREWORKS}, {})  # type: ignore[arg-type]
        assert read_timings({"metrics": SimpleNamespace(**VLLM)}, {}) == read_timings({"metrics": VLLM}, {})
        assert read_timings({"choices": [Extra(meta_info=SGLANG)]}, {}) == read_timings({"meta_info": SGLANG}, {})  # type: ignore[arg-type]

    def test_headers_in_any_case(self) -> None:
        expected = read_timings({}, {}, TGI)
        titled = {name.title(): value for name, value in TGI.items()}
        assert read_timings({}, {}, httpx2.Headers(titled)) == expected
        assert read_timings({}, {}, Titled(titled)) == expected
        assert read_timings({}, {}, pick_headers(httpx2.Headers(titled))) == expected

    def test_headers_of_httpx(self) -> None:
        httpx = pytest.importorskip("httpx")
        assert read_timings({}, {}, httpx.Headers(TGI)) == read_timings({}, {}, TGI)

    def test_a_header_in_two_lines(self) -> None:
        headers = httpx2.Headers([("Server-Timing", "gfet4t7;dur=3"), ("server-timing", TENSORRT)])
        assert read_timings({}, {}, headers) == read_timings({}, {}, {"server-timing": TENSORRT})

    def test_picked_headers_hold_no_others(self) -> None:
        headers = httpx2.Headers(TGI | {"set-cookie": "secret", "authorization": "Bearer x", "x-request-id": "r"})
        assert set(pick_headers(headers)) == {"x-total-time", "x-validation-time", "x-queue-time", "x-inference-time"}

    def test_what_raises_when_it_is_read(self) -> None:
        before = internal_errors.counts["reading server timings"]
        assert read_timings({"metrics": Broken(), "time_info": CEREBRAS}, {}) is None
        assert internal_errors.counts["reading server timings"] == before + 1
        assert read_route(BrokenHeaders()) == {}
        assert read_processing_time(BrokenHeaders()) is None


class Titled(Mapping[str, str]):
    """A mapping of headers that is no dict and knows nothing of case."""

    def __init__(self, items: dict[str, str]) -> None:
        self.items_ = items

    def __getitem__(self, key: str) -> str:
        return self.items_[key]

    def __iter__(self) -> Any:
        return iter(self.items_)

    def __len__(self) -> int:
        return len(self.items_)


class Broken:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


class BrokenHeaders(Titled):
    def __init__(self) -> None:
        super().__init__({"a": "b"})

    def __getitem__(self, key: str) -> str:
        raise RuntimeError(key)


class TestRoute:
    def test_azure_groq_fireworks_openai(self) -> None:
        headers = {
            "x-ms-region": "East US 2",
            "azureml-model-session": "d20260330170902-0e618f323d34",
            "x-groq-region": "me-central-1",
            "fireworks-backend-host": "host-7",
            "fireworks-deployment": "accounts/a/deployments/d",
            "x-inference-version": "v2",
            "openai-version": "2020-10-01",
            "x-openai-proxy-wasm": "v0.1",
        }
        noise = {
            "x-request-id": "req_1",
            "set-cookie": "a=b",
            "openai-organization": "acme",
            "openai-processing-ms": "9",
        }
        assert read_route(headers | noise) == headers
        assert read_route(httpx2.Headers(headers | noise)) == headers

    def test_of_the_ray_only_the_edge(self) -> None:
        assert read_route({"cf-ray": "8bdd43153af209bf-HFA"}) == {"cf-colo": "HFA"}
        assert read_route({"cf-ray": "8bdd43153af209bf"}) == {}

    @pytest.mark.parametrize("bad", [None, 3, "", "a\nb", "x" * 201, ["East US"]])
    def test_values_that_are_no_name(self, bad: Any) -> None:
        assert read_route({"x-ms-region": bad, "cf-ray": bad}) == {}

    def test_nothing(self) -> None:
        assert read_route(None) == {}
        assert read_processing_time(None) is None

    @pytest.mark.parametrize(
        ("headers", "expected"),
        [
            ({"openai-processing-ms": "122"}, 0.122),
            ({"openai-processing-ms": "29.1074"}, 0.0291074),
            ({"openai-processing-ms": "9162", "x-envoy-upstream-service-time": "9193"}, 9.162),
            ({"x-envoy-upstream-service-time": "188"}, 0.188),
            ({"openai-processing-ms": "soon", "x-envoy-upstream-service-time": "188"}, 0.188),
            ({"openai-processing-ms": "-1"}, None),
            ({"openai-processing-ms": "1e12"}, None),
        ],
    )
    def test_processing_time(self, headers: dict[str, str], expected: float | None) -> None:
        assert read_processing_time(headers) == expected


KEYS = sorted(set[str]().union(*(engine.reads() | engine.marks() for engine in ENGINES)) | {"timed_by", "extra"})
HEADERS = sorted(module._WANTED)

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.floats().map(str)
    | st.sampled_from(["llmtrace-reference", "cuda", TENSORRT, "1.5", 0.25, 12.5, 1719000000.1])
)
numbers = st.dictionaries(st.sampled_from(KEYS), leaves, max_size=8)
values = st.recursive(
    leaves | numbers,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["usage", "timing", "meta_info"]), inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=12,
)
bodies = values | st.dictionaries(st.sampled_from([*sorted(module._FIELDS), module._GATEWAY]), values, max_size=4)
header_sets = (
    values
    | st.dictionaries(st.sampled_from(HEADERS), leaves, max_size=8)
    | st.dictionaries(st.sampled_from(HEADERS), st.text(st.characters(codec="latin-1"), max_size=12), max_size=8).map(
        lambda headers: httpx2.Headers([(name.encode(), value.encode("latin-1")) for name, value in headers.items()])
    )
)


class TestAnything:
    @given(bodies, bodies | numbers, st.none() | header_sets)
    def test_never_raises_and_tells_only_durations(self, fields: Any, usage: Any, headers: Any) -> None:
        before = internal_errors.counts.total()
        timings = read_timings(fields, usage, headers)
        if timings is not None:
            durations = told(timings)
            assert durations
            assert all(type(value) is float and 0.0 <= value <= 1e6 for value in durations.values())
            assert timings.cached_tokens is None or (type(timings.cached_tokens) is int and timings.cached_tokens >= 0)
            assert type(timings.device) is bool
        route = read_route(headers)
        assert all(isinstance(value, str) for value in route.values())
        processing = read_processing_time(headers)
        assert processing is None or 0.0 <= processing <= 1e6
        assert internal_errors.counts.total() == before, "JSON of any shape is read without an exception of ours"

    @given(st.sampled_from(ENGINES), st.data())
    def test_every_engine_with_numbers_of_every_kind(self, engine: Any, data: st.DataObject) -> None:
        source = data.draw(st.dictionaries(st.sampled_from(sorted(engine.reads())), leaves, min_size=1))
        source |= dict.fromkeys([*engine.own, *engine.all_of], 0.25) | source
        if engine.mark:
            source[engine.mark[0]] = engine.mark[1]
        timings = engine.read(source)
        if timings is not None:
            assert all(0.0 <= value <= 1e6 for value in told(timings).values())

    @given(st.text(alphabet='server_quttfe2 ;=,."\\dur019-+eE\t', max_size=120))
    def test_any_server_timing_header(self, header: str) -> None:
        timings = read_timings({}, {}, {"server-timing": header})
        assert timings is None or all(0.0 <= value <= 1e6 for value in told(timings).values())


def groq_recordings() -> list[Any]:
    folder = shared_folder()
    found = sorted((folder / "recordings" / "groq").glob("*.json")) if folder else []
    return [pytest.param(path, id=path.stem) for path in found] or [None]


@pytest.mark.shared
@pytest.mark.parametrize("path", groq_recordings())
def test_recorded_groq_bodies(path: Path | None) -> None:
    assert path is not None, "no recordings of Groq in the shared folder"
    recording = json.loads(path.read_text())
    body = recording["response"]["body"]
    if recording["streaming"]:
        events = [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: {")]
        fields: dict[str, Any] = {"x_groq": events[-1]["x_groq"]}
        usage: dict[str, Any] = {}
        counted = events[-1]["x_groq"]["usage"]
        assert read_timings({"x_groq": events[0]["x_groq"]}, {}) is None, "the first chunk brings an id only"
    else:
        answer = json.loads(body)
        fields, usage = {"x_groq": answer["x_groq"]}, answer["usage"]
        counted = usage
    timings = read_timings(fields, usage, httpx2.Headers(recording["response"]["headers"]))
    assert timings is not None
    assert timings.engine == "groq"
    assert (timings.queue, timings.prefill, timings.decode) == (
        counted["queue_time"],
        counted["prompt_time"],
        counted["completion_time"],
    )
    # As the SDK's docstring has it: total_time is prompt and completion, so that the queue comes on top.
    assert counted["total_time"] == pytest.approx(counted["prompt_time"] + counted["completion_time"], abs=1e-9)
    assert timings.total == pytest.approx(
        counted["queue_time"] + counted["prompt_time"] + counted["completion_time"], abs=1e-9
    )
    assert (timings.kv_cache_hit, timings.ttft, timings.device) == (None, None, False)
    route = read_route(recording["response"]["headers"])
    assert route["cf-colo"] == recording["response"]["headers"]["cf-ray"].split("-")[1]


def test_the_page_names_every_engine_and_every_field() -> None:
    page = "\n".join(path.read_text() for path in sorted(DOCS.parent.glob("*.md")))
    for engine in ENGINES:
        missing = [key for key in engine.reads() if f"`{key}`" not in page]
        assert not missing, f"{engine.name}: {missing}"
        assert f"`{engine.name}`" in page
    assert all(f"`{name}`" in page for name in module._ROUTE_HEADERS)
