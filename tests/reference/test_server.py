"""The real openai client against the server, over real sockets."""

from __future__ import annotations

import concurrent.futures
import json
import random
import socket
import time
import urllib.error
import urllib.request
from typing import Any

import openai
import pytest

from llmtrace.reference import ServerProcess
from tests.support.waiting import wait_for

MODEL = "llmtrace-tiny"
MORE = "response_format.json_schema.more"
PHASES = ("queue_time_ms", "time_to_first_token_ms", "generation_time_ms")


def fresh(words: int) -> str:
    """A prompt that no cache knows, of about so many words."""
    rng = random.Random(time.perf_counter_ns())
    return " ".join(rng.choice(["queue", "prefix", "slow", "token", "clock", str(rng.random())]) for _ in range(words))


def chat(client: openai.OpenAI, prompt: str, **options: Any) -> Any:
    asked: dict[str, Any] = {"model": MODEL, "max_tokens": 8, "temperature": 0, **options}
    return client.chat.completions.create(messages=[{"role": "user", "content": prompt}], **asked)


def post(server: ServerProcess, path: str, body: bytes | None) -> tuple[int, dict[str, Any]]:
    """The status and the error of a request that no client would send; a body of None is a GET."""
    request = urllib.request.Request(server.root_url + path, data=body, headers={"x-request-id": "mine"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    with caught.value as answer:
        assert answer.headers["x-request-id"] == "mine"
        error = json.loads(answer.read())["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return answer.code, error


def metrics_of(response: Any) -> dict[str, Any]:
    """What the server measured, from a body or a chunk."""
    found = response.model_extra.get("metrics")
    assert isinstance(found, dict)
    return found


def test_an_answer_at_once(client: openai.OpenAI) -> None:
    began = time.perf_counter()
    response = chat(client, fresh(20))
    took_ms = (time.perf_counter() - began) * 1e3
    assert response.object == "chat.completion"
    assert response.model == MODEL
    assert response.system_fingerprint.startswith("fp_")
    [choice] = response.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason == "length"
    assert response.usage.completion_tokens == 8
    assert response.usage.total_tokens == response.usage.prompt_tokens + 8
    assert response.usage.prompt_tokens_details.cached_tokens == 0
    metrics = metrics_of(response)
    assert metrics["engine"] == "llmtrace-reference"
    assert metrics["timed_by"] == "host"
    assert metrics["kv_cache_hit_time_ms"] == 0
    assert sum(metrics[key] for key in PHASES) <= took_ms
    assert metrics["mean_itl_ms"] == pytest.approx(metrics["generation_time_ms"] / 7)
    assert metrics["tokens_per_second"] == pytest.approx(8 / metrics["generation_time_ms"] * 1e3)


def test_a_stream_is_one_chunk_per_token_with_the_role_at_the_first(client: openai.OpenAI) -> None:
    began = time.perf_counter()
    chunks = []
    arrivals = []
    for chunk in chat(client, fresh(20), stream=True):
        chunks.append(chunk)
        arrivals.append((time.perf_counter() - began) * 1e3)
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].choices[0].delta.content == ""
    assert [bool(chunk.choices[0].delta.content) for chunk in chunks[1:-1]] == [True] * 8
    assert chunks[-1].choices[0].finish_reason == "length"
    assert all(chunk.usage is None for chunk in chunks)
    metrics = metrics_of(chunks[-1])
    assert sum(metrics[key] for key in PHASES) <= arrivals[-1]
    assert metrics["queue_time_ms"] + metrics["time_to_first_token_ms"] <= arrivals[0]


def test_the_usage_chunk_comes_only_when_asked_for_and_then_holds_the_metrics(client: openai.OpenAI) -> None:
    chunks = list(chat(client, fresh(10), stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 8
    assert set(PHASES) < set(metrics_of(chunks[-1]))
    assert chunks[-2].choices[0].finish_reason == "length"
    assert "metrics" not in (chunks[-2].model_extra or {})


def test_streamed_and_not_streamed_answers_are_the_same(client: openai.OpenAI) -> None:
    prompt = fresh(10)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chat(client, prompt, stream=True))
    assert streamed == chat(client, prompt).choices[0].message.content


def test_the_same_prompt_again_hits_the_cache(client: openai.OpenAI, server: ServerProcess) -> None:
    prompt = fresh(250)
    before = server.metric("prefix_cache_hits_total")
    cold, *others = [chat(client, prompt) for _ in range(6)]
    warm = min(others, key=lambda each: metrics_of(each)["time_to_first_token_ms"])  # whom the machine disturbed least
    cached = warm.usage.prompt_tokens_details.cached_tokens
    assert cold.usage.prompt_tokens_details.cached_tokens < 64
    assert warm.usage.prompt_tokens - 129 <= cached < warm.usage.prompt_tokens
    assert cached % 128 == 0
    assert server.metric("prefix_cache_hits_total") - before >= cached
    first, second = metrics_of(cold), metrics_of(warm)
    assert 0 < second["kv_cache_hit_time_ms"] < second["time_to_first_token_ms"] < first["time_to_first_token_ms"]
    assert warm.choices[0].message.content == cold.choices[0].message.content


def test_a_burst_waits_in_the_queue(client: openai.OpenAI, server: ServerProcess) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        with chat(client, fresh(5), stream=True, max_tokens=4000) as ahead:
            next(iter(ahead))
            burst = [pool.submit(chat, client, fresh(60), max_tokens=12) for _ in range(4)]
            wait_until(lambda: server.metric("num_requests_waiting") == 4)
            began = time.perf_counter()
            time.sleep(0.1)
            held = time.perf_counter() - began
        answers = [metrics_of(each.result()) for each in burst]
        took = time.perf_counter() - began
    assert min(answer["queue_time_ms"] for answer in answers) >= held * 1e3
    assert sum(answer["generation_time_ms"] for answer in answers) <= took * 1e3, "one after the other, on one slot"


def test_headers_come_before_the_queue_and_the_first_event_with_the_first_token(
    client: openai.OpenAI, server: ServerProcess
) -> None:
    with chat(client, fresh(5), stream=True, max_tokens=4000) as ahead:
        next(iter(ahead))
        began = time.perf_counter()
        with chat(client, fresh(5), stream=True) as stream:
            headers = time.perf_counter()
            time.sleep(0.1)
            waited = time.perf_counter() - headers
            ahead.close()  # only now is there a slot for the other one
            chunks = []
            for chunk in stream:
                chunks.append(chunk)
                if len(chunks) == 1:
                    first = time.perf_counter() - began
    queued = metrics_of(chunks[-1])["queue_time_ms"] / 1e3
    assert waited <= queued < first


def test_a_full_queue_is_a_429_with_a_time_to_come_back(client: openai.OpenAI, server: ServerProcess) -> None:
    streams = [chat(client, fresh(5), stream=True, max_tokens=4000) for _ in range(7)]  # one slot and six waiting
    try:
        with pytest.raises(openai.RateLimitError) as caught:
            chat(client, "too many")
        headers = caught.value.response.headers
        assert int(headers["retry-after"]) >= 1
        assert 0 < int(headers["retry-after-ms"]) <= 30_000
        assert caught.value.code == "rate_limit_exceeded"
        assert server.metric("num_requests_waiting") == 6
    finally:
        for stream in streams:
            stream.close()
    wait_until(lambda: server.metric("num_requests_running") + server.metric("num_requests_waiting") == 0)


def test_a_client_that_leaves_frees_its_slot_within_a_step(server: ServerProcess) -> None:
    """Over a fresh connection, as a closed stream closes it."""
    before = server.metric("generation_tokens_after_cancel_total")
    cancelled = server.metric('requests_total{outcome="cancelled"}')
    for asked in (True, False):
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3000, "stream": asked}
        raw = json.dumps(body).encode()
        with socket.create_connection(("127.0.0.1", int(server.root_url.rsplit(":", 1)[1]))) as connection:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(raw)}\r\n\r\n"
            connection.sendall(head.encode() + raw)
            if asked:
                connection.recv(100)
            wait_until(lambda: server.metric("num_requests_running") == 1)
        wait_until(lambda: server.metric("num_requests_running") == 0)
    assert server.metric('requests_total{outcome="cancelled"}') == cancelled + 2
    assert server.metric("generation_tokens_after_cancel_total") - before <= 2, "of the 3,000 that were asked for"


def test_the_truth_of_a_cancelled_stream_can_be_read_back(client: openai.OpenAI, server: ServerProcess) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"x-request-id": "left-early", "traceparent": trace}
    stream = chat(client, fresh(10), stream=True, max_tokens=2000, extra_headers=headers)
    for count, _ in enumerate(stream):
        if count == 5:
            break
    assert stream.response.headers["x-request-id"] == "left-early"
    stream.close()
    truth = server.truth("left-early")
    assert (truth["outcome"], truth["finish_reasons"]) == ("cancelled", ["abort"])
    assert truth["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert truth["span_id"] == "b7ad6b7169203331"
    assert 5 <= truth["output_tokens"] < 2000
    assert truth["cancelled_s"] is not None
    assert sum(truth["phases_s"].values()) == pytest.approx(truth["total_s"])
    with pytest.raises(urllib.error.HTTPError) as caught:
        server.truth("never-sent", timeout=0)
    caught.value.close()


def test_every_ended_request_has_its_finish_reasons(server: ServerProcess) -> None:
    """Also where the record is written before the answer has been put together."""

    def ask(number: int) -> None:
        with openai.OpenAI(base_url=server.base_url, api_key="unused", max_retries=20) as client:
            headers = {"x-request-id": f"reasons-{number}"}
            asked = chat(client, "x", max_tokens=2, n=1 + number % 2, stream=number % 3 == 0, extra_headers=headers)
            if number % 3 == 0:
                list(asked)

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(24)))
    for number in range(24):
        assert server.truth(f"reasons-{number}")["finish_reasons"] == ["length"] * (1 + number % 2)


def test_completions_take_text_tokens_and_lists(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {"model": MODEL, "max_tokens": 4, "temperature": 0}
    [one] = client.completions.create(prompt="The queue is", **ask).choices
    assert one.text
    assert one.finish_reason == "length"
    assert len(client.completions.create(prompt=[10, 20, 30], **ask).choices) == 1
    several = client.completions.create(prompt=["The queue", "Prefill"], n=2, **ask)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert several.choices[0].text == several.choices[1].text
    assert several.usage is not None
    assert several.usage.completion_tokens == 16
    assert (several.model_extra or {})["metrics"] is None, "one set of numbers cannot describe several answers"
    streamed = "".join(
        chunk.choices[0].text for chunk in client.completions.create(prompt="The queue is", stream=True, **ask)
    )
    assert streamed == one.text


def test_n_stop_and_seed(client: openai.OpenAI) -> None:
    prompt = fresh(5)
    several = chat(client, prompt, n=3, temperature=1.0, seed=5)
    again = chat(client, prompt, n=3, temperature=1.0, seed=5)
    texts = [choice.message.content for choice in several.choices]
    assert texts == [choice.message.content for choice in again.choices]
    assert len(texts) == 3
    whole = chat(client, prompt, max_tokens=20).choices[0].message.content
    stop = whole[10:14]
    stopped = chat(client, prompt, max_tokens=20, stop=stop).choices[0]
    assert stopped.message.content == whole[: whole.index(stop)]
    assert stopped.finish_reason == "stop"


def test_the_clients_own_helpers_work(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model=MODEL,
        messages=[{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
        max_tokens=60,
        stop=".",
    ) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


async def test_the_asynchronous_client(server: ServerProcess) -> None:
    async with openai.AsyncOpenAI(base_url=server.base_url, api_key="unused", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "hello"}], max_tokens=4, stream=True
        )
        assert [chunk async for chunk in stream][-1].choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("options", "param", "says"),
    [
        ({"temperature": 3}, "temperature", "from 0 to 2"),
        ({"temperature": "hot"}, "temperature", "must be a number"),
        ({"top_p": 0}, "top_p", "above 0"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"),
        ({"max_tokens": 1.5}, "max_tokens", "integer"),
        ({"n": 99}, "n", "from 1 to 16"),
        ({"stop": [1]}, "stop", "list of strings"),
        ({"messages": []}, "messages", "at least one"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "must be a string"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content", "only text"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream=true"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "json_object or json_schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "must be an object"),
        ({"response_format": {"type": "text"}, "guided_regex": 3}, "guided_regex", "as a string"),
        ({"tool_choice": "required"}, "tool_choice", "cannot force"),
        ({"logprobs": True}, "logprobs", "not supported"),
        ({"top_k": 5}, "top_k", "not supported"),
        ({"min_p": 0.1}, "min_p", "not supported"),
        ({"repetition_penalty": 1.2}, "repetition_penalty", "not supported"),
        ({"guided_json": {}}, "guided_json", "not supported"),
        ({"min_tokens": 3}, "min_tokens", "not supported"),
        ({"stop_token_ids": [1]}, "stop_token_ids", "not supported"),
        ({"prompt": "x"}, "prompt", "not supported"),
        ({"stop": list("abcde")}, "stop", "at most 4"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage", "a boolean"),
        ({"stream": True, "stream_options": {"every": 1}}, "stream_options.every", "not supported"),
        ({"response_format": {"type": "text", "strict": True}}, "response_format.strict", "not supported"),
        ({"response_format": {"json_schema": {"more": 1}, "type": "json_schema"}}, MORE, "not supported"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "give one of"),
        ({"max_tokens": "5", "max_completion_tokens": 5}, "max_tokens", "integer"),
        ({"max_tokens": 2**70}, "messages", "maximum context length is 4096"),
        ({"temperature": float("inf")}, "temperature", "from 0 to 2"),
        ({"temperature": float("nan")}, "temperature", "from 0 to 2"),
        ({"seed": "7"}, "seed", "integer"),
        ({"n": 0}, "n", "from 1 to 16"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls", "a boolean"),
        ({"tools": {}}, "tools", "a list"),
        ({"messages": [{"role": "word " * 100_000, "content": "x"}]}, "messages", "has at least"),
        ({"max_tokens": 5000}, "messages", "maximum context length is 4096"),
    ],
)
def test_bad_parameters(server: ServerProcess, options: dict[str, Any], param: str, says: str) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], **options}
    status, error = post(server, "/v1/chat/completions", json.dumps(body).encode())
    assert (status, error["param"], error["type"]) == (400, param, "invalid_request_error")
    assert says in error["message"]


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ([], "must be a string, a list of token ids, or a list of either"),
        ([[]], "must be a string"),
        ([[True]], "must be a string"),
        (["a", [1]], "must be a string"),
        ([None], "must be a string"),
        ("", "has no tokens"),
        ([-1], "must lie in"),
        ([2**70], "must lie in"),
        (["a"] * 65, "at most 64 prompts"),
        ([[5] * 5000], "maximum context length is 4096"),
    ],
)
def test_bad_prompts(server: ServerProcess, prompt: Any, says: str) -> None:
    status, error = post(server, "/v1/completions", json.dumps({"model": MODEL, "prompt": prompt}).encode())
    assert (status, error["param"]) == (400, "prompt")
    assert says in error["message"]


def test_a_prompt_that_is_too_long(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="Please reduce the length") as caught:
        chat(client, "word " * 5000)
    assert caught.value.code == "context_length_exceeded"


def test_a_text_that_must_be_too_long_is_not_even_tokenised(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="has at least") as caught:
        chat(client, "word " * 1_000_000)
    assert caught.value.code == "context_length_exceeded"


def test_a_body_that_is_too_large_gets_its_answer(server: ServerProcess) -> None:
    body = b'{"model": "' + b"x" * (36 << 20) + b'"}'
    request = urllib.request.Request(f"{server.base_url}/chat/completions", data=body)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    with caught.value as answer:
        assert answer.code == 413
        assert "larger than" in json.loads(answer.read())["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "status"), [({"host": "evil.example"}, 421), ({"origin": "http://evil.example"}, 403)]
)
def test_foreign_names_and_pages_are_refused(server: ServerProcess, headers: dict[str, str], status: int) -> None:
    request = urllib.request.Request(f"{server.root_url}/v1/models", headers=headers)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    with caught.value as answer:
        assert answer.code == status
        assert "error" in json.loads(answer.read())


def test_fields_that_change_no_answer_are_taken(client: openai.OpenAI) -> None:
    aside: dict[str, Any] = {"user": "me", "metadata": {"a": "b"}, "store": False, "logit_bias": {}, "n": 1}
    assert chat(client, "x", extra_body={"top_k": -1}, presence_penalty=0, **aside).choices


def test_an_unknown_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="does not exist") as caught:
        chat(client, "x", model="gpt-9")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/v1/chat/completions", b"{", 400, "not valid JSON"),
        ("/v1/chat/completions", b"\xff\xfe", 400, "not valid JSON"),
        ("/v1/chat/completions", b"[]", 400, "must be a JSON object"),
        ("/v1/chat/completions", b"[" * 200_000, 400, "nested too deeply"),
        ("/v1/chat/completions", b'{"model": "\\ud800"}', 400, "half of a character"),
        ("/v1/chat/completions", b'{"model": "\xed\xa0\x80"}', 400, "not valid JSON"),
        ("/v1/chat/completions", '{"model": "x"}'.encode("utf-16"), 400, "not valid JSON"),
        ("/v1/chat/completions", b'{"n": ' + b"1" * 5000 + b"}", 400, "not valid JSON"),
        ("/v1/chat/completions", None, 405, "Not allowed"),
        ("/v1/nowhere", None, 404, "Invalid URL"),
        ("/v1/models/gpt-9", None, 404, "does not exist"),
    ],
)
def test_errors_have_openais_shape(
    server: ServerProcess, path: str, body: bytes | None, status: int, says: str
) -> None:
    found, error = post(server, path, body)
    assert found == status
    assert says in error["message"]


def test_health_and_metrics(server: ServerProcess) -> None:
    health = json.loads(server.get("/health"))
    assert health["status"] == "ok"
    assert health["device"] == "cpu"
    text = server.get("/metrics")
    for name in (
        "num_requests_waiting",
        "num_requests_running",
        "prefix_cache_hits_total",
        "prefix_cache_misses_total",
        "prefix_cache_evictions_total",
        "request_queue_time_seconds_sum",
        "request_prefill_time_seconds_count",
        "request_decode_time_seconds_sum",
        "device_busy_seconds_total",
        "model_load_seconds",
        "kv_cache_used_tokens",
        'step_seconds_total{kind="decode"}',
    ):
        assert f"\nllmtrace:{name} " in text
    for line in text.splitlines():
        assert line.startswith("#") or float(line.rpartition(" ")[2]) >= 0


# Faults on demand


def test_a_429_twice_then_an_answer(server: ServerProcess) -> None:
    headers = {"x-llmtrace-fault": "429;times=2;retry-after=0.05", "x-llmtrace-fault-key": fresh(3)}
    with openai.OpenAI(base_url=server.base_url, api_key="unused", max_retries=2) as retrying:
        raw = retrying.chat.completions.with_raw_response.create(
            model=MODEL, messages=[{"role": "user", "content": "x"}], max_tokens=2, extra_headers=headers
        )
    assert raw.retries_taken == 2
    assert raw.status_code == 200


def test_an_error_in_the_middle_of_a_stream(client: openai.OpenAI) -> None:
    seen = []
    with pytest.raises(openai.APIError, match="error asked for"):
        for chunk in chat(client, "x", stream=True, extra_headers={"x-llmtrace-fault": "error-after=3"}):
            seen.append(chunk.choices[0].delta.content)
    assert len([text for text in seen if text]) == 3
    with pytest.raises(openai.InternalServerError, match="error asked for"):
        chat(client, "x", extra_headers={"x-llmtrace-fault": "error-after=3"})


def test_a_connection_that_drops(client: openai.OpenAI) -> None:
    seen = []
    with pytest.raises(openai.APIConnectionError):
        for chunk in chat(client, "x", stream=True, extra_headers={"x-llmtrace-fault": "drop-after=3"}):
            seen.append(chunk.choices[0].delta.content)
    assert len([text for text in seen if text]) == 3
    with pytest.raises(openai.APIConnectionError):
        chat(client, "x", extra_headers={"x-llmtrace-fault": "drop-after=0"})


def test_an_answer_that_runs_on(server: ServerProcess, client: openai.OpenAI) -> None:
    header = {"x-llmtrace-fault": "run-on"}
    ignore: dict[str, Any] = {"ignore_eos": True}
    with chat(client, "x", stream=True, max_tokens=40, extra_headers=header, extra_body=ignore) as stream:
        id = stream.response.headers["x-request-id"]
        next(iter(stream))

    def records() -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{server.root_url}/debug/requests") as answer:
            return [each for each in json.load(answer)["requests"] if each["request_id"] == id]

    wait_for(records)
    (record,) = records()
    assert (record["outcome"], record["output_tokens"], record["cancelled_s"]) == ("completed", 40, None)


def test_a_crash_in_one_request_leaves_the_others(client: openai.OpenAI) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        good = pool.submit(chat, client, fresh(5), max_tokens=20)
        with pytest.raises(openai.InternalServerError, match="crash asked for"):
            chat(client, "x", extra_headers={"x-llmtrace-fault": "crash-after=2"})
        with pytest.raises(openai.APIError, match="crash asked for"):
            list(chat(client, "x", stream=True, extra_headers={"x-llmtrace-fault": "crash-after=2"}))
        assert good.result().usage.completion_tokens == 20


def test_a_fault_that_nobody_knows(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="known are"):
        chat(client, "x", extra_headers={"x-llmtrace-fault": "explode"})


def test_the_server_ends_when_told_also_in_the_middle_of_a_stream(server: ServerProcess) -> None:
    with (
        ServerProcess(device="cpu", faults=False, arguments=["--grace", "0.5"]) as other,
        openai.OpenAI(base_url=other.base_url, api_key="unused", max_retries=0) as client,
    ):
        ignored = {"x-llmtrace-fault": "429"}
        stream = chat(client, "x", stream=True, max_tokens=3000, extra_headers=ignored)
        next(iter(stream))
        process = other._process
        assert process is not None
        other.stop(patience=120)  # after which it would be killed
        assert process.returncode == 0
        with pytest.raises(openai.APIError, match="the server is stopping") as caught:
            list(stream)
        assert caught.value.code == "stopping"
    assert "Traceback" not in other.log


def wait_until(true: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
