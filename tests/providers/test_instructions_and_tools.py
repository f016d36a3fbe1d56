"""Content capture: instructions that an API takes apart from the history, and its tools, from requests as clients send
them."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from llmtrace.providers.declare import Operation

SAID = [{"type": "text", "content": "Be brief."}]
WEATHER = {"type": "function", "name": "weather"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
IN_FUNCTION = {"type": "function", "function": {"name": "weather", "description": "TELLS-MUCH", "parameters": SCHEMA}}
DECLARED = {"name": "weather", "description": "TELLS-MUCH", "parameters_json_schema": SCHEMA}
CONVERSE = {
    "system": [{"text": "Be brief."}, {"cachePoint": {"type": "default"}}],
    "toolConfig": {
        "tools": [
            {"toolSpec": {"name": "weather", "description": "TELLS-MUCH", "inputSchema": {"json": SCHEMA}}},
            {"cachePoint": {"type": "default"}},
        ]
    },
}
CLAUDE = {"system": "Be brief.", "tools": [{"name": "weather", "description": "TELLS-MUCH", "input_schema": SCHEMA}]}


def weather(city: str) -> str:
    """TELLS-MUCH"""
    return city


def gemini_typed() -> dict[str, Any]:
    """Made only where it is asked for: its types take a second to import, which each worker would pay for."""
    from google.genai import types

    search = types.Tool(google_search=types.GoogleSearch())
    tools = [types.Tool(function_declarations=[DECLARED]), search, weather]
    return {"config": types.GenerateContentConfig(system_instruction="Be brief.", tools=tools)}


def gemini_thinking() -> dict[str, Any]:
    from google.genai import types

    return {"config": types.GenerateContentConfig(thinking_config=types.ThinkingConfig(thinking_level="high"))}


SEARCH = {"type": "google_search", "name": "google_search"}
CASES: list[tuple[str, dict[str, Any] | Callable[[], dict[str, Any]], list[Any], list[Any]]] = [
    ("chat_completions:CHAT", {"tools": [IN_FUNCTION]}, [], [WEATHER]),
    ("chat_completions:CHAT", {"functions": [{"name": "weather", "parameters": SCHEMA}]}, [], [WEATHER]),
    (
        "chat_completions:CHAT",
        {"tools": [{"type": "custom", "custom": {"name": "sql", "description": "TELLS-MUCH"}}]},
        [],
        [{"type": "custom", "name": "sql"}],
    ),
    ("chat_completions:CHAT", {"messages": [{"role": "system", "content": "Be brief."}]}, [], []),
    (
        "responses:RESPONSES",
        {"instructions": "Be brief.", "tools": [{**WEATHER, "parameters": SCHEMA}]},
        SAID,
        [WEATHER],
    ),
    ("responses:RESPONSES", {"tools": [{"type": "mcp", "server_url": "u"}]}, [], [{"type": "mcp", "name": "mcp"}]),
    ("anthropic:MESSAGES", CLAUDE, SAID, [WEATHER]),
    ("anthropic:MESSAGES", {"system": [{"type": "text", "text": "Be brief."}]}, SAID, []),
    ("bedrock:CHAT", {"operation": "Converse", **CONVERSE}, SAID, [WEATHER]),
    ("bedrock:CHAT", {"operation": "InvokeModel", "body": json.dumps(CLAUDE)}, SAID, [WEATHER]),
    ("bedrock:CHAT", {"operation": "InvokeModel", "body": json.dumps(CONVERSE).encode()}, SAID, [WEATHER]),
    (
        "cohere:CHAT",
        {"preamble": "Be brief.", "tools": [{"name": "weather", "description": "TELLS-MUCH"}]},
        SAID,
        [WEATHER],
    ),
    ("cohere:CHAT", {"tools": [IN_FUNCTION]}, [], [WEATHER]),
    ("ollama:GENERATE", {"system": "Be brief.", "prompt": "p"}, SAID, []),
    ("ollama:CHAT", {"tools": [IN_FUNCTION]}, [], [WEATHER]),
    ("mistralai:CHAT", {"tools": [IN_FUNCTION]}, [], [WEATHER]),
    ("litellm:CHAT", {"tools": [IN_FUNCTION]}, [], [WEATHER]),
    (
        "google_genai:GENERATE",
        gemini_typed,
        SAID,
        [WEATHER, SEARCH, WEATHER],
    ),
    (
        "google_genai:GENERATE",
        {"config": {"system_instruction": {"parts": [{"text": "Be brief."}]}, "tools": [{"google_search": {}}]}},
        SAID,
        [SEARCH],
    ),
    ("google_genai:GENERATE", {"config": {"system_instruction": ["Be brief."]}}, SAID, []),
    ("google_genai:GENERATE", {"config": None}, [], []),
]


@pytest.mark.parametrize(
    ("where", "body", "instructions", "tools"), CASES, ids=[f"{c[0]} {i}" for i, c in enumerate(CASES)]
)
def test_apart_from_the_history(where: str, body: Any, instructions: list[Any], tools: list[Any]) -> None:
    module, _, name = where.partition(":")
    operation: Operation = getattr(importlib.import_module(f"llmtrace.providers.{module}"), name)
    request = operation.read_request({"model": "m", **(body() if callable(body) else body)})
    assert (operation.system_instructions(request) or []) == instructions
    assert (operation.tool_definitions(request) or []) == tools
    assert "Be brief." not in json.dumps(operation.input_messages(request) or []) or not instructions


LEVELS = [
    ("chat_completions:CHAT", {"reasoning_effort": "minimal"}, "minimal"),
    ("chat_completions:CHAT", {"reasoning": {"effort": "high"}}, "high"),
    ("responses:RESPONSES", {"reasoning": {"effort": "low"}}, "low"),
    ("anthropic:MESSAGES", {"output_config": {"effort": "max"}}, "max"),
    ("ollama:CHAT", {"think": "medium"}, "medium"),
    ("ollama:CHAT", {"think": True}, None),
    ("bedrock:CHAT", {"operation": "Converse", "additionalModelRequestFields": {"reasoning_effort": "low"}}, "low"),
    (
        "bedrock:CHAT",
        {
            "operation": "Converse",
            "additionalModelRequestFields": {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "high"}},
        },
        "high",
    ),
    ("google_genai:GENERATE", {"config": {"thinking_config": {"thinking_level": "low"}}}, "LOW"),
    (
        "google_genai:GENERATE",
        gemini_thinking,
        "HIGH",
    ),
]


@pytest.mark.parametrize(("where", "body", "level"), LEVELS, ids=[f"{case[0]} {i}" for i, case in enumerate(LEVELS)])
def test_the_level_of_reasoning_as_it_is_sent(where: str, body: Any, level: str | None) -> None:
    module, _, name = where.partition(":")
    operation: Operation = getattr(importlib.import_module(f"llmtrace.providers.{module}"), name)
    request = operation.read_request({"model": "m", **(body() if callable(body) else body)})
    assert operation.request_attributes(request).get("gen_ai.request.reasoning.level") == level


@pytest.mark.parametrize("operation", ["chat_completions:CHAT", "anthropic:MESSAGES", "ollama:CHAT", "cohere:CHAT"])
def test_a_class_as_a_tool_is_named(operation: str) -> None:
    from pydantic import BaseModel

    class Weather(BaseModel):
        city: str

    module, _, name = operation.partition(":")
    declared: Operation = getattr(importlib.import_module(f"llmtrace.providers.{module}"), name)
    request = declared.read_request({"model": "m", "tools": [Weather, weather], "response_format": Weather})
    named = [{"type": "function", "name": "Weather"}, WEATHER]
    assert declared.tool_definitions(request) == named
    assert declared.request_attributes(request) is not None


def test_a_class_has_no_fields() -> None:
    from pydantic import BaseModel

    from llmtrace.providers.safe import extras, fields, get

    class Model(BaseModel, extra="allow"):
        x: int = 1

    assert get(Model, "y") is None
    assert dict(fields(Model)) == dict(extras(Model)) == {}
    made = Model.model_validate({"x": 2, "y": 3})
    assert (get(made, "x"), get(made, "y"), dict(extras(made))) == (2, 3, {"y": 3})
