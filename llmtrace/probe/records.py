"""What providers keep of an answer that is over, asked for by its id: OpenRouter's generation, OpenAI's response."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from llmtrace.probe.clients import Client
from llmtrace.probe.prompts import Prompt
from llmtrace.wording import clean

GENERATION_ID: Final = "gen-"
"""How OpenRouter's ids begin."""
RESPONSE_LEAST = 16
"""Tokens: the fewest that OpenAI's Responses API lets one ask for."""
_PATIENCE_S = 20.0
_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Generation:
    """OpenRouter's account of one answer."""

    tokens: int
    """Output tokens, as the model that answered counts them."""
    cancelled: bool
    provider: str


def generation(client: Client, id: str, sleep: Callable[[float], object] = time.sleep) -> Generation | str:
    """OpenRouter's account, which it has some seconds after the end; else why there is none."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            answer: Any = client.library.get("/generation", cast_to=object, options={"params": {"id": id}})
            told = answer.get("data") if isinstance(answer, Mapping) else None
            if isinstance(told, Mapping) and isinstance(tokens := told.get("native_tokens_completion"), int):
                provider = clean(str(told.get("provider_name") or ""), 60)
                return Generation(tokens, told.get("cancelled") is True, provider)
            reason = "it does not tell the tokens"
        except Exception as error:  # whatever the library raises: there is no account, and that is all
            reason = clean(f"{type(error).__name__}: {error}", 120)
        if time.monotonic() >= until:
            return f"/generation tells nothing of {clean(id, 60)} ({reason})"
        sleep(_AGAIN_S)


@dataclass(frozen=True, slots=True)
class Stored:
    """A response that was closed, and what is known of it afterwards."""

    came: int
    tokens: int
    slack: int
    """How far ``tokens`` may be off: 0 where the provider told them."""
    how: str


class Unoffered(str):
    """Why there is nothing to ask: the provider has no such API, and counted nothing."""

    __slots__ = ()


def stored_response(
    client: Client, prompt: Prompt, follow: Prompt, asked: int, most: int, wait: float,
    reckoned: tuple[int, int], sleep: Callable[[float], object] = time.sleep,
) -> Stored | str:  # fmt: skip
    """Close a stored response's stream after ``most`` chunks and learn from the provider what became of it.

    ``asked``: tokens of the answer; ``wait``: seconds until a whole one would have ended; ``reckoned``: input tokens of
    ``prompt`` and of ``follow``. Returns why nothing was learned, where that is so.
    """
    responses: Any = client.library.responses
    came, id = 0, ""
    try:
        stream: Any = responses.create(
            model=client.model, input=prompt.text, stream=True, store=True, max_output_tokens=asked
        )
        with stream:
            for event in stream:
                id = id or getattr(getattr(event, "response", None), "id", "") or ""
                came += event.type == "response.output_text.delta"
                if came >= most:
                    break
    except Exception as error:  # no such API, or it refuses: then nothing is known by it
        return Unoffered(f"there is no Responses API here ({_said(error)})")
    if not id or came < most:
        return "the response's stream has no id, or ended too early"
    sleep(wait)
    try:
        kept: Any = responses.retrieve(id)
        if kept.usage is not None and kept.usage.output_tokens:
            return Stored(came, kept.usage.output_tokens, 0, f"usage of the stored response ({kept.status})")
    except Exception:
        pass  # it may still be there for the next call
    try:
        answer: Any = responses.create(
            model=client.model, input=follow.text, previous_response_id=id, store=False,
            max_output_tokens=RESPONSE_LEAST,
        )  # fmt: skip
        tokens = answer.usage.input_tokens - sum(reckoned)
    except Exception as error:
        return f"a response whose stream was closed is not kept ({_said(error)})"
    if tokens < 0:
        return f"the next call's input is {tokens} tokens short of both prompts"
    return Stored(came, tokens, 12, "input tokens of a call that goes on from it")


def _said(error: Exception) -> str:
    status = getattr(error, "status_code", None)
    return str(status) if status else type(error).__name__
