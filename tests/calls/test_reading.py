"""Requests of which a value raises when it is read, for every operation of every client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from llmtrace.calls.reading import of_params, of_request, read_request
from llmtrace.instrumentation.instrumentors import INSTRUMENTORS
from llmtrace.providers.declare import Botocore, Generate, Operation, Provider, Stainless
from llmtrace.providers.prompt import asks_for_caching, place_of, prompt_texts
from llmtrace.providers.reask import is_reask
from llmtrace.providers.variants import media, variant

FIELDS = (
    "tools", "messages", "input", "contents", "prompt", "system", "config", "options", "response_format", "stop",
    "stream_options", "n", "temperature", "text", "reasoning", "thinking", "tool_choice", "format", "modelId", "body",
)  # fmt: skip
BODY: dict[str, Any] = {
    "model": "m", "stream": True, "n": 1, "operation": "Converse", "modelId": "m", "start": 0, "contents": [],
    "llmtrace.rows": 1,
}  # fmt: skip
"""What one or another operation's request has in any case."""
METHODS = ("__bool__", "__len__", "__iter__", "__eq__", "__contains__", "__getitem__", "get", "items", "__class__")


def raises(*_: Any) -> Any:
    raise RuntimeError("not to be asked")


def odd(kind: type, method: str, *given: Any) -> Any:
    made = type("Odd", (kind,), {method: property(raises) if method == "__class__" else raises, "__hash__": None})
    return made(*given)


def operations() -> dict[str, Operation]:
    found: dict[str, Operation] = {}
    for name, instrumentor in INSTRUMENTORS.items():
        provider: Provider = instrumentor().client.load()
        for hook in (*provider.hooks, *provider.services):
            if isinstance(hook, (Stainless, Botocore)):
                each = hook.operations
            else:
                each = (hook.chat, hook.completion) if isinstance(hook, Generate) else (hook.operation,)
            found |= {f"{name} {operation.name} {operation.path}": operation for operation in each}
    return found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("field", FIELDS)
def test_it_costs_no_more_than_itself(field: str, method: str) -> None:
    messages = [{"role": "user", "content": "x"}]
    for value in (odd(list, method, messages), odd(dict, method, {"type": "x"}), odd(object, method)):
        for name, operation in operations().items():
            if field == "n" and name.startswith("vllm"):
                continue  # there it is ours
            body = {**BODY, field: value}
            request = read_request(operation, body)
            for read in (
                operation.request_attributes, operation.tool_definitions, operation.input_messages,
                operation.system_instructions,
            ):  # fmt: skip
                of_request(request, read)
            for of in (prompt_texts, asks_for_caching, media, variant):
                of_params(request, of)
            of_params(request, place_of, 0)
            of_params(request, is_reask, False)
            assert isinstance(request.params, Mapping), name
