"""The table of gateways, by itself: the page that describes it, and numbers of every kind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtrace.providers import gateways

PAGE = Path(__file__).resolve().parents[2] / "docs" / "gateways.md"


def rows() -> dict[str, set[str]]:
    """What the page's table sets in backticks, by gateway."""
    found: dict[str, set[str]] = {}
    for line in PAGE.read_text().splitlines():
        words = re.findall(r"`([^`]+)`", line)
        if "<br>" in line and words:
            found[words[0]] = set(words[1:])
    return found


def test_the_page_has_every_gateway_and_every_field() -> None:
    table = rows()
    assert set(table) == {*(gateway.name for gateway in gateways.GATEWAYS), *gateways.BODY_FIELDS, "cloudfront"}
    for gateway in gateways.GATEWAYS:
        assert gateway.headers() <= table[gateway.name], gateway.name
        told = {word for word in table[gateway.name] if re.fullmatch(r"[a-z0-9_]+(-[a-z0-9_]+)+", word)}
        assert told <= gateway.headers(), "nothing is promised that is not read"
        assert set(gateway.hits) <= {word.lower() for word in table[gateway.name]}
    for name, fields in gateways.BODY_FIELDS.items():
        assert set(fields) <= table[name], name


def test_a_mark_is_one_gateways_own() -> None:
    marks = [mark for gateway in gateways.GATEWAYS for mark in gateway.marks]
    assert len(marks) == len(set(marks))


NAMES = (
    *(
        "attempts",
        "attempt",
        "provider",
        "status",
        "region",
        "cost",
        "total_cost",
        "endpoints",
        "available",
        "selected",
    ),
    *("request_type", "cache_debug", "cache_hit", "model_router_details", "routing_trace", "latency_ms", "result"),
)
values: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["12", "HIT", "1e9"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


def plausible(hop: Any) -> None:
    if hop is None:
        return
    assert hop.spent is None or 0 <= hop.spent <= 1e6
    assert hop.cost is None or 0 <= hop.cost <= 1e6
    assert len(hop.attempts) <= 200
    for name in (hop.upstream, hop.deployment, hop.region, hop.model):
        assert name is None or (name.isprintable() and ";" not in name)


@given(st.dictionaries(st.sampled_from(sorted(gateways.HEADERS)), st.text(max_size=30), max_size=8), st.booleans())
def test_any_headers(headers: dict[str, str], streaming: bool) -> None:
    plausible(gateways.read_headers(headers, streaming))


@given(st.text(max_size=60).map(lambda more: f"cdn-downstream-fbl;dur={more}"))
def test_any_server_timing(header: str) -> None:
    plausible(gateways.read_headers({"server-timing": header}, False))


BODY = ["provider", "openrouter_metadata", "id", "extra_fields", "model_selection_details"]


@given(st.dictionaries(st.sampled_from(BODY), values, max_size=3), values)
def test_any_body(fields: dict[str, Any], usage: Any) -> None:
    plausible(gateways.read_body(fields, usage))


def test_who_tells_more_is_believed_first() -> None:
    body = gateways.read_body({"id": "gen-1", "provider": "Groq"}, {"cost": 0.5})
    headers = gateways.read_headers({"x-litellm-call-id": "c", "x-litellm-model-id": "d"}, False)
    both = gateways.joined(body, headers)
    assert both is not None
    assert (both.gateway, both.upstream, both.deployment, both.cost) == ("litellm", "Groq", "d", 0.5)
    assert both.who == "Groq d"


@pytest.mark.parametrize(
    ("base", "host"),
    [
        ("user:pw@foo.azure.com/openai?api-key=SECRET", "foo.azure.com"),
        ("foo.azure.com:8443/openai?api-key=SECRET", "foo.azure.com:8443"),
        ("https://user:pw@foo.azure.com:8443/openai?api-key=SECRET", "foo.azure.com:8443"),
        ("https://foo.azure.com?api-key=SECRET", "foo.azure.com"),
        ("https://[::1]:8000/v1", "[::1]:8000"),
        ("user:pw/SECRET@foo.azure.com/openai", None),
        ("user:1/SECRET@foo.azure.com/openai", None),
        ("user:pw", None),
        ("api-key=SECRET", None),
        ("azure", "azure"),
    ],
)
def test_of_an_upstream_only_host_and_port(base: str, host: str | None) -> None:
    hop = gateways.read_headers({"x-litellm-model-api-base": base}, False)
    assert hop is not None
    assert hop.upstream == host
