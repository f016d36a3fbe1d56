"""Which export a row is of, and what its fields mean.

OpenRouter: the answer of ``GET /generation`` (openrouter.ai/docs), and the activity page's CSV. LiteLLM: the rows of
its table of spend logs (litellm/proxy/schema.prisma), as its API and its page export them. OpenAI: buckets of
``/organization/usage/completions`` and the usage page's CSV. Anthropic: buckets of
``/organizations/usage_report/messages`` and the console's CSV.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from llmtrace.analyze.billing.records import (
    ANTHROPIC,
    LITELLM,
    NS,
    OPENAI,
    OPENROUTER,
    Bucket,
    Exports,
    Record,
    Unreadable,
    moment,
    needed,
    some,
    tokens,
    usd,
    words,
)

Row = Mapping[str, Any]
_DAY_NS = 86_400 * NS
_HOUR_NS = 3_600 * NS
_LONGEST_MS = 86_400_000
"""No answer takes longer: what says so is no time."""


def take(row: Any, place: str, into: Exports) -> None:
    """Read one row of an export.

    Raises:
        Unreadable: nothing of it can be used.
    """
    if not isinstance(row, Mapping):
        raise Unreadable("it is no row of an export")
    inner = row.get("data")
    if isinstance(inner, Mapping):  # an answer of GET /generation as it is
        row = inner
    if "results" in row or "result" in row:
        _sum_up(row, place, into)
    elif "usage_output_tokens" in row:
        into.sum_up(_anthropic_row(row))
    elif "output_tokens" in row and "start_time" in row:
        into.sum_up(_openai(row, _edges(row, "start_time", "end_time")))
    elif any(name in row for name in ("native_tokens_completion", "tokens_completion")):
        into.add(_openrouter(row, place))
    elif "completion_tokens" in row and ("request_id" in row or "startTime" in row):
        into.add(_litellm(row, place))
    elif set(row) <= {"start_time", "end_time", "start_time_iso", "end_time_iso"} and "start_time" in row:
        return  # OpenAI's page exports empty buckets so
    else:
        raise Unreadable("it has none of the fields by which OpenRouter, LiteLLM, OpenAI or Anthropic tell tokens")


def _openrouter(row: Row, place: str) -> Record:
    start = moment(row.get("created_at"))
    ms = usd(row, "generation_time", "generation_time_ms")
    return Record(
        source=OPENROUTER,
        place=place,
        ids=some((words(row, "id", "generation_id"), words(row, "upstream_id"))),
        models=some((words(row, "model"), words(row, "model_permaslug"))),
        start_ns=start,
        end_ns=None if start is None or ms is None or ms > _LONGEST_MS else start + round(ms * 1e6),
        input_tokens=tokens(row, "native_tokens_prompt", "tokens_prompt"),
        output_tokens=needed(row, "native_tokens_completion", "tokens_completion"),
        usd=usd(row, "total_cost", "cost_total"),
        hop=_hop(OPENROUTER, words(row, "provider_name")),
    )


def _litellm(row: Row, place: str) -> Record:
    base = words(row, "api_base")
    host = urlsplit(base).netloc.rpartition("@")[2] if "://" in base else ""
    return Record(
        source=LITELLM,
        place=place,
        ids=some((words(row, "request_id"),)),
        models=some((words(row, "model"), words(row, "model_group"))),
        start_ns=moment(row.get("startTime")),
        end_ns=moment(row.get("endTime")),
        input_tokens=tokens(row, "prompt_tokens"),
        output_tokens=needed(row, "completion_tokens"),
        usd=usd(row, "spend"),
        hop=_hop(LITELLM, host or words(row, "custom_llm_provider")),
    )


def _hop(source: str, behind: str) -> str:
    return f"{source}: {behind[:80]}" if behind else source


def _sum_up(row: Row, place: str, into: Exports) -> None:
    """Take each result of a bucket in; one that cannot be read costs itself only."""
    results = row.get("results", row.get("result"))
    if not isinstance(results, list):
        raise Unreadable("its results are no list")
    is_openai = "start_time" in row
    edges = _edges(row, "start_time", "end_time") if is_openai else _edges(row, "starting_at", "ending_at")
    for result in results:
        try:
            if not isinstance(result, Mapping):
                raise Unreadable("one of its results is none")
            into.sum_up(_openai(result, edges) if is_openai else _anthropic(result, edges))
        except Unreadable as why:
            into.problems.append((place, str(why)))


def _edges(row: Row, start: str, end: str) -> tuple[int, int]:
    begin, finish = moment(row.get(start)), moment(row.get(end))
    if begin is None or finish is None or finish <= begin:
        raise Unreadable(f"its {start} and {end} are no stretch of time")
    return begin, finish


def _openai(row: Row, edges: tuple[int, int]) -> Bucket:
    return Bucket(
        source=OPENAI,
        start_ns=edges[0],
        end_ns=edges[1],
        model=words(row, "model") or None,
        input_tokens=tokens(row, "input_tokens") or 0,
        output_tokens=needed(row, "output_tokens"),
        requests=tokens(row, "num_model_requests"),
    )


def _anthropic(row: Row, edges: tuple[int, int]) -> Bucket:
    created = row.get("cache_creation")
    written = created if isinstance(created, Mapping) else {}
    parts = (
        tokens(row, "uncached_input_tokens"),
        tokens(row, "cache_read_input_tokens"),
        tokens(row, "cache_creation_input_tokens"),
        tokens(written, "ephemeral_5m_input_tokens"),
        tokens(written, "ephemeral_1h_input_tokens"),
    )
    return Bucket(
        source=ANTHROPIC,
        start_ns=edges[0],
        end_ns=edges[1],
        model=words(row, "model") or None,
        input_tokens=sum(part or 0 for part in parts),
        output_tokens=needed(row, "output_tokens"),
    )


def _anthropic_row(row: Row) -> Bucket:
    """A row of the console's CSV: a day, or an hour where its time says one."""
    when = words(row, "usage_date_utc")
    start = moment(when)
    if start is None:
        raise Unreadable("it has no usage_date_utc")
    names = ("no_cache", "cache_write_5m", "cache_write_1h", "cache_write", "cache_read")
    return Bucket(
        source=ANTHROPIC,
        start_ns=start,
        end_ns=start + (_HOUR_NS if ":" in when else _DAY_NS),
        model=words(row, "model_version") or None,
        input_tokens=sum(tokens(row, f"usage_input_tokens_{name}") or 0 for name in names),
        output_tokens=needed(row, "usage_output_tokens"),
    )
