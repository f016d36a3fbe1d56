"""What keeps phases merged: by a file of spans, and by a saved baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from llmtrace import config, unsplit
from llmtrace.doctor.findings import Finding, Mark


def of_traces(traces: Path | None) -> Iterator[Finding]:
    """Each route in a file of spans: how many of its calls have a phase that stands for several, and why."""
    if traces is None:
        return
    states = unsplit.of_traces(traces)
    if not states:
        yield Finding("note", traces.name, "no call in it has phases")
    for state in states:
        name, of = _clean(state.name), f"{state.calls:,} call{'' if state.calls == 1 else 's'}"
        if not state.merged:
            yield Finding("ok", name, f"{of}, all told apart")
        elif not state.lately:
            yield Finding("ok", name, f"{of}, all of the last {unsplit.RECENT} told apart")
        recent = min(state.calls, unsplit.RECENT)
        last = "" if recent == state.calls else "last "
        for number, sentence in state.reasons:
            yield Finding("missing", name, f"{number} of the {last}{recent} calls: {_clean(sentence)}")


def _clean(words: str) -> str:
    """What a file says, as a terminal may have it."""
    from llmtrace.view import text

    return text.clean(words)


def of_baseline(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Each route in the saved baseline that the settings name."""
    if "LLMTRACE_BASELINE_PATH" in config.environment_slips(environ):
        return
    chosen = config.settings({}, environ)
    path = Path(chosen.baseline_path)
    if not chosen.baseline_path or not path.is_file():
        return
    routes = unsplit.of_baseline(path, chosen.min_calls, chosen.min_spread)
    if not routes:
        yield Finding("note", "baseline", "no route in it yet, or none of this version's")
    for name, sentence in routes:
        mark: Mark = "ok" if sentence is None else "missing"
        yield Finding(mark, _clean(name), f"saved baseline: {_clean(sentence or 'its calls are told apart')}")
