"""llama-cpp-python: a model in the application's own process. In OpenAI's shape, times from llama.cpp's counters.

``llama_perf_context`` sums, over the life of a context, the time of evaluating prompts (``t_p_eval_ms``) and of single
tokens (``t_eval_ms``), and how many of each. A call's share is the difference between its end and its begin; a context
serves one call at a time. A prompt of which all but one token was cached counts among the single tokens.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from llmtrace.observe.answer import Answer, ServerTimings
from llmtrace.observe.call import NOTHING, OUTPUT
from llmtrace.providers import openai
from llmtrace.providers.declare import Load, Method, Provider, Request
from llmtrace.providers.safe import get, items, text

_MODEL, _BEFORE = "llama", "before"


class Counters(NamedTuple):
    """llama.cpp's sums since the context was made: times in milliseconds, and token counts."""

    prompt_ms: float
    token_ms: float
    prompt_tokens: int
    tokens: int


def read_counters(model: Any) -> Counters | None:
    """The counters of a ``Llama`` object; None where it is closed or keeps none."""
    context = getattr(getattr(model, "_ctx", None), "ctx", None)
    library = sys.modules.get("llama_cpp")
    if context is None or library is None or getattr(model.context_params, "no_perf", False):
        return None
    perf = library.llama_perf_context(context)
    prompt_ms, token_ms = perf.t_p_eval_ms, perf.t_eval_ms
    # llama.cpp reports a count of 1 where nothing has been evaluated yet.
    return Counters(prompt_ms, token_ms, perf.n_p_eval if prompt_ms else 0, perf.n_eval if token_ms else 0)


def complete(request: Request, answer: Answer) -> None:
    """Add this call's share of the counters to the answer: times in seconds, cached tokens, output tokens."""
    if answer.model is not None:
        answer.model = os.path.basename(answer.model)  # it is a path
    before, after = request.params.get(_BEFORE), read_counters(request.params.get(_MODEL))
    if before is None or after is None or after.tokens < before.tokens:
        return
    prompt, tokens = after.prompt_tokens - before.prompt_tokens, after.tokens - before.tokens
    usage = answer.usage
    answer.timings = ServerTimings(
        "llama.cpp",
        prefill=(after.prompt_ms - before.prompt_ms) / 1e3,
        decode=(after.token_ms - before.token_ms) / 1e3,
    )
    if usage.input_tokens is not None:
        usage.cached_tokens = max(0, usage.input_tokens - (prompt or 1))
    if usage.output_tokens is None and prompt + tokens:
        # Nothing else is told of a stream: its first token comes from evaluating the prompt, each other from its own.
        usage.output_tokens = tokens + 1 if prompt else tokens


CHAT = replace(openai.CHAT, path="", ask_for_usage=lambda body: None, complete=complete)
TEXT = replace(
    CHAT,
    name="text_completion",
    classify_chunk=lambda chunk: (
        OUTPUT if any(get(choice, "text") for choice in items(get(chunk, "choices"))) else NOTHING
    ),
    input_messages=lambda request: None,
    output_messages=lambda answer, streamed: None,
)
EMBED = replace(TEXT, name="embeddings")


def _arguments(first: str) -> Callable[[Any, tuple[Any, ...], Mapping[str, Any]], Mapping[str, Any]]:
    """A call's arguments as one mapping, with the model's file as its name, the object and its counters' state."""

    def body(model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        name = text(kwargs.get("model")) or text(model.model_path) or ""
        return {
            **dict(zip((first,), args, strict=False)),
            **kwargs,
            "model": os.path.basename(name),
            _MODEL: model,
            _BEFORE: read_counters(model),
        }

    return body


_METHODS: Sequence[tuple[str, Any, str]] = (
    ("create_chat_completion", CHAT, "messages"),
    ("create_completion", TEXT, "prompt"),
    ("create_embedding", EMBED, "input"),
)


def _name(model: Any) -> str:
    return os.path.basename(text(model.model_path) or "")


def _asked(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """The name of the file that was to be loaded; of a repository's, that of the repository."""
    asked = args[0] if args else kwargs.get("model_path", kwargs.get("repo_id"))
    return os.path.basename(text(asked) or "") or None


LLAMA_CPP = Provider(
    hooks=tuple(
        Method(module="llama_cpp.llama", path=f"Llama.{name}", operation=operation, body=_arguments(first), lazy=True)
        for name, operation, first in _METHODS
    ),
    provider_name=lambda model, host: "llama.cpp",
    base_url=lambda model: None,
    in_process=True,
    loads=tuple(
        Load(module="llama_cpp.llama", path=f"Llama.{function}", name=_name, asked=_asked, rest="read")
        for function in ("__init__", "from_pretrained")
    ),
)
