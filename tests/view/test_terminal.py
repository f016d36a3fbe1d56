"""The waterfall in the terminal: compared with stored text, and never wider than asked for."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from llmtrace.analyze.otlp import Link, Span, Status, TraceFileError
from llmtrace.view import html, terminal, text, tree


def printed(item: Any, width: int = 80, **settings: Any) -> str:
    stream = io.StringIO()
    settings.setdefault("color_system", None)
    Console(file=stream, width=width, highlight=False, legacy_windows=False, **settings).print(item)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def shown(path: Path, width: int = 80, **choice: Any) -> str:
    stream = io.StringIO()
    terminal.show(path, Console(file=stream, width=width, color_system=None, legacy_windows=False), **choice)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


CALL = """\
chat smol-135m                                            trace 4bf92f3577b34da6
completed · smol-135m · TTFT 963 ms · 56 tokens in (0 cached) · 48 out
67.0 tok/s
               0          0.5 s      1 s       1.5 s
chat smol-135m █████████████████████████████████████   1.67 s
├─ network     ▏                                      2.00 ms  client ±300 µs
├─ queue       ██████████████████▊                     843 ms  estimate ±92.0 ms
├─ prefill                       ▕██▍                  118 ms  estimate ±24.0 ms
└─ decode                           ▐███████████████   702 ms  client ±1.20 ms
"""


def test_a_call_at_80_columns(recorder: Any, tmp_path: Path) -> None:
    recorder.call(
        [
            ("network", 2.0, "client", 0.3, None),
            ("queue", 843.0, "estimate", 92.0, None),
            ("prefill", 118.0, "estimate", 24.0, None),
            ("decode", 702.0, "client", 1.2, None),
        ],
        attributes={
            "gen_ai.usage.input_tokens": 56,
            "gen_ai.usage.output_tokens": 48,
            "gen_ai.usage.cache_read.input_tokens": 0,
        },
    )
    (trace,) = tree.build(_spans(recorder, tmp_path))
    assert printed(terminal.render_trace(trace)) == CALL
    assert printed(terminal.render_trace(trace, 80), width=100) == CALL


def _spans(recorder: Any, tmp_path: Path) -> tuple[Span, ...]:
    from llmtrace.analyze import otlp

    return otlp.read(recorder.save(tmp_path / "t.jsonl")).spans


def test_everything_of_a_demo_is_told(demo_file: Path) -> None:
    out = shown(demo_file)
    for words in (
        "1,042 tokens in (1,024 cached)",
        "diagnosis: prefill_surge",
        "cancelled",
        "3 attempts",
        "attempt · 429",
        "queue + prefill",
        "not told apart",
        "error · smol-135m",
        "APIError after 12 tokens",
        "1,024 tok",
        "±92.0 ms",
    ):
        assert words in out
    assert "■ network" in out.splitlines()[-2] + out.splitlines()[-1]


@pytest.mark.parametrize(
    ("attributes", "kind", "told"),
    [
        ({"llmtrace.call.repairs": 1}, "repair", "repair of an answer"),
        ({"llmtrace.call.repairs": 3}, None, "repair no. 3 of an answer"),
        ({}, "retry", "retry of a failed call"),
        ({}, "fallback", "fallback of a failed call"),
        ({}, "model_load", None),
        ({"llmtrace.call.repairs": "2"}, None, "repair no. 2 of an answer"),
        *(({"llmtrace.call.repairs": odd}, "else", None) for odd in (0, "0", 1.5, "1.5", -1, "x", True, float("inf"))),
    ],
)
def test_what_a_call_repeats(attributes: dict[str, Any], kind: str | None, told: str | None) -> None:
    links = () if kind is None else (Link("e" * 32, "9" * 16, {"llmtrace.link.kind": kind}),)
    call = {"llmtrace.call.outcome": "completed", "gen_ai.operation.name": "chat", **attributes}
    (trace,) = tree.build([_span("chat m", "1", None, 0, 100_000_000, attributes=call, links=links)])
    first = printed(terminal.render_trace(trace)).splitlines()[1]
    assert first == " · ".join(filter(None, ("completed", told)))
    page = html.render([trace], title="t")
    assert (f"<li>{told}</li>" in page) is (told is not None)


@pytest.mark.parametrize("width", [20, 32, 40, 60, 80, 100, 200])
def test_never_wider_than_the_terminal(demo_file: Path, width: int) -> None:
    for line in shown(demo_file, width).splitlines():
        assert cell_len(line) <= max(width, 32)


def test_in_colour_a_call_is_made_of_its_phases(demo_file: Path) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=80, color_system="truecolor", force_terminal=True, legacy_windows=False)
    terminal.show(demo_file, console)
    out = stream.getvalue()
    for name in ("network", "queue", "kv_cache_hit", "prefill", "decode", "merged"):
        red, green, blue = (int(terminal.COLOURS[name][at : at + 2], 16) for at in (1, 3, 5))
        assert f"38;2;{red};{green};{blue}" in out
    assert "48;2;" in out


def test_a_terminal_that_knows_only_ascii(demo_file: Path) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    console = Console(file=stream, width=80, color_system=None, legacy_windows=False)
    terminal.show(demo_file, console)
    stream.flush()
    out = raw.getvalue().decode("ascii")
    assert "`- decode" in out
    assert "####" in out
    assert "~92.0 ms" in out


def _span(name: str, own: str, parent: str | None, start: int, end: int, **more: Any) -> Span:
    return Span("f" * 32, own, parent, name, "internal", start, end, **more)


def test_spans_that_are_not_ours_are_plain_bars() -> None:
    spans = [
        _span("GET /", "1", None, 0, 100_000_000),
        _span("日本語のデータベース検索ではとても長い名前", "2", "1", 10_000_000, 60_000_000),
        _span("nothing", "3", "1", 60_000_000, 60_000_000),
        _span("at the end", "4", "1", 100_000_000, 100_000_000),
        _span("backwards", "5", "1", 90_000_000, 10_000_000),
        _span("\x1b[31mred\x07\nline", "6", "2", 20_000_000, 30_000_000, status=Status("error", "no")),
    ]
    (trace,) = tree.build(spans)
    out = printed(terminal.render_trace(trace))
    assert "\x1b" not in out
    assert "\x07" not in out
    rows = out.splitlines()
    assert len(rows) == 8
    assert all(cell_len(row) <= 80 for row in rows)
    assert sum("▏" in row or "▕" in row for row in rows) >= 3
    assert sum(row.endswith(" 0 s") for row in rows) == 3
    assert "日本語の" in out


def test_a_trace_without_length_and_one_of_years() -> None:
    for end in (5, 10**18):
        (trace,) = tree.build([_span("a", "1", None, 5, end), _span("b", "2", "1", 5, 5)])
        assert len(printed(terminal.render_trace(trace)).splitlines()) == 4


def test_calls_inside_an_application_have_their_facts_beneath(recorder: Any, tmp_path: Path) -> None:
    parent = recorder.span("answer question", recorder.clock, 2_000_000_000)
    recorder.call([("prefill", 100.0, "server", None, 5), ("decode", 100.0, "client", None, 7)], parent=parent)
    recorder.call([("prefill", 100.0, "server", None, 5), ("decode", 100.0, "client", None, 7)], parent=parent)
    (trace,) = tree.build(_spans(recorder, tmp_path))
    out = printed(terminal.render_trace(trace))
    assert out.count("completed · smol-135m · TTFT 100 ms") == 2
    assert "├─ chat smol-135m" in out
    assert "│  ├─ prefill" in out


def test_deep_trees_stay_readable() -> None:
    spans = [_span(f"level {n}", str(n), str(n - 1) if n else None, n, 1000) for n in range(200)]
    (trace,) = tree.build(spans)
    out = printed(terminal.render_trace(trace))
    assert len(out.splitlines()) == 202
    assert all(cell_len(line) <= 80 for line in out.splitlines())


def test_choosing_traces_and_telling_what_was_left_out(demo_file: Path, tmp_path: Path) -> None:
    lines = demo_file.read_text().splitlines()
    assert shown(demo_file, limit=2).count("trace 4bf9") == 2
    assert "6 earlier traces not shown" in shown(demo_file, limit=2)
    assert shown(demo_file, trace="4BF92F3577B34DA60000000000000003").count("trace 4bf9") == 1
    with pytest.raises(TraceFileError, match="none of its 8 traces"):
        shown(demo_file, trace="ffff")
    broken = tmp_path / "broken.jsonl"
    broken.write_text("\n".join([*lines, "oops"]))
    out = shown(broken, limit=1)
    assert "skipped 1 broken part of the file" in out
    assert f"line {len(lines) + 1}: not valid JSON" in out
    with pytest.raises(TraceFileError):
        shown(broken, strict=True)


def test_a_comparison_table() -> None:
    table = text.Table(
        ["scenario", "server", "client"], [["cold", "1.2 ms", None]], "Compared", "a note", groups=[("prefill", 2)]
    )
    out = printed(terminal.render_table(table))
    for words in ("Compared", "prefill", "server", "client", "cold", "1.2 ms", text.DASH, "a note"):
        assert words in out


@pytest.mark.parametrize("width", [30, 60, 80, 120])
def test_a_wide_comparison_is_split_and_loses_nothing(width: int) -> None:
    columns = ["scenario", "tokens", *(f"phase {n}" for n in range(9))]
    cells = ["a scenario", *(f"{n}.25 ms" for n in range(10))]
    table = text.Table(columns, [cells], groups=[("", 1), ("server measured", 4), ("client alone", 5)])
    out = printed(terminal.render_table(table), width)
    assert all(cell_len(line) <= width for line in out.splitlines())
    assert all(out.count(cell) == 1 for cell in cells[1:])
    assert "server measured" in out
    assert "client alone" in out


def test_the_legend_names_what_occurs(demo_file: Path) -> None:
    assert "merged" in terminal.legend().plain
    (trace,) = tree.build([_span("a", "1", None, 0, 5)])
    assert terminal.legend([trace]).plain == "■ other span"
    assert json.dumps(terminal.legend().plain)


def test_a_verdict_is_told_with_its_evidence(tmp_path: Path) -> None:
    def said(**items: Any) -> list[dict[str, Any]]:
        return [{"key": key.replace("__", "."), "value": value} for key, value in items.items()]

    def event(cause: str, **more: Any) -> dict[str, Any]:
        told = said(llmtrace__diagnosis__cause={"stringValue": cause}, **more)
        return {"name": "llmtrace.diagnosis", "timeUnixNano": "2000000000", "attributes": told}

    causes = {"arrayValue": {"values": [{"stringValue": cause} for cause in ("cold_kv_cache", "model_swap")]}}
    span = {
        "traceId": "1" * 32, "spanId": "2" * 16, "name": "chat m", "kind": 3,
        "startTimeUnixNano": "1000000000", "endTimeUnixNano": "2000000000",
        "attributes": said(gen_ai__operation__name={"stringValue": "chat"}, llmtrace__diagnosis=causes),
        "events": [
            event(
                "cold_kv_cache",
                llmtrace__diagnosis__excess={"doubleValue": 2.6},
                llmtrace__diagnosis__time_per_token={"doubleValue": 94e-6},
                llmtrace__diagnosis__confidence={"doubleValue": 0.97},
            ),
            event(
                "model_swap",
                llmtrace__diagnosis__observed={"stringValue": "small"},
                llmtrace__diagnosis__expected={"stringValue": "large"},
            ),
        ],
    }  # fmt: skip
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}))
    out = " ".join(shown(path, width=200).split())
    assert (
        "cold_kv_cache: 2.60 s more than usual, 94.0 µs per token (97% sure); model_swap: small instead of large" in out
    )
