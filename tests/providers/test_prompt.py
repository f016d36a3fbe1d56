"""The texts of a request: each tool's whole definition, packed or as JSON, or its name where two providers' shapes are
compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmtrace.providers.prompt import place_of, prompt_texts, tool_definition, tool_name, tool_packed

SAID: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello."}]}
SCHEMA = {"type": "object", "properties": {"q": {"type": "string"}}}
SHAPES: list[dict[str, Any]] = [
    {"tools": [{"type": "function", "function": {"name": "search", "parameters": SCHEMA}}]},
    {"tools": [{"type": "function", "name": "search", "parameters": SCHEMA}]},
    {"tools": [{"name": "search", "input_schema": SCHEMA, "cache_control": {"type": "ephemeral"}}]},
    {"toolConfig": {"tools": [{"toolSpec": {"name": "search", "inputSchema": {"json": SCHEMA}}}]}},
]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_tools_name_is_the_same_in_every_shape(shape: dict[str, Any]) -> None:
    assert prompt_texts(shape | SAID, tool_name) == ["search", "]", "user", "Hello."]
    assert '"properties": {"q": {"type": "string"}}' in prompt_texts(shape | SAID, tool_definition)[0]
    for of_tool in (tool_definition, tool_packed):
        whole = prompt_texts(shape | SAID, of_tool)
        assert "properties" in whole[0]
        assert "cache_control" not in whole[0]
    assert [place_of(shape | SAID, number) for number in (0, 1, 3)] == [
        ("tools[0] search", True),
        ("tools", True),
        ("messages[0]", False),
    ]


def test_what_is_no_json_says_the_same_each_time() -> None:
    around: dict[str, Any] = {"name": "loop"}
    around["itself"] = around
    for odd in ({"name": "f", "call": object()}, {("a", 1): 2, "name": "f"}, around, {"type": "web_search"}, {}):
        first, again = (prompt_texts({"tools": [dict(odd)], **SAID}) for _ in range(2))
        assert first == again
        assert "0x" not in first[0]


def test_nothing_that_can_be_read_is_no_text() -> None:
    assert prompt_texts({}) == []
    assert prompt_texts({"tools": "search", "input": [1, 2, 3]}) == []


def changed(tools: list[dict[str, Any]]) -> None:
    tools[0]["parameters"]["properties"]["city"]["type"] = "number"


def reordered(tools: list[dict[str, Any]]) -> None:
    tools[0]["name"] = tools[0].pop("name")


def of_another_type(tools: list[dict[str, Any]]) -> None:
    tools[0]["strict"] = 1


def of_another_number(tools: list[dict[str, Any]]) -> None:
    tools[0]["strict"] = 1.0


def of_a_class(tools: list[dict[str, Any]]) -> None:
    tools[0]["strict"] = type("Word", (str,), {})("yes")


def holding_itself(tools: list[dict[str, Any]]) -> None:
    tools[0]["self"] = tools[0]


@pytest.mark.parametrize(
    "change", [changed, reordered, of_another_type, of_another_number, of_a_class, holding_itself, list.pop]
)
def test_tools_that_were_changed_in_place_have_another_text(change: Callable[[Any], Any]) -> None:
    def tools() -> list[dict[str, Any]]:
        city = {"type": "object", "properties": {"city": {"type": "string"}}}
        return [{"name": "weather", "parameters": city, "strict": True}, {"name": "time"}]

    given = tools()
    before = prompt_texts({"tools": given})
    assert prompt_texts({"tools": tools()}) == before
    change(given)
    after = prompt_texts({"tools": given})
    assert after == prompt_texts({"tools": given}) != before
    assert prompt_texts({"tools": tools()}) == before
