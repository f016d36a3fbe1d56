"""The scripted provider that every framework asks: OpenAI-shaped, each answer with its own id and token counts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.replay import Replay, Request, Script, chunk, completion, events_script, json_answer

TEXT = "It is sunny in Bern today."
CACHED = 16
"""Tokens of each prompt that are told as cached."""
_TOOLS: Mapping[str, tuple[dict[str, Any], ...]] = {
    "weather": ({"city": "Bern"},),
    "final_answer": ({"answer": TEXT},),
    "Person": ({"name": "Ada", "age": 36}, {"name": "Ada", "age": "at an age that nobody wrote down"}),
}
"""The arguments that each tool is called with; the second ones do not fit."""


@dataclass(frozen=True)
class Answer:
    """One answer that was given."""

    case: str
    id: str
    streamed: bool
    told_usage: bool
    """Whether the counts were in it: of a stream only where it was asked to."""
    input_tokens: int
    output_tokens: int
    body: dict[str, Any] = field(compare=False)
    """What was asked."""


class Provider:
    """Answers requests to ``/CASE/v1/chat/completions``; everything else is refused."""

    def __init__(self, text: str = TEXT) -> None:
        self.text = text
        self.answers: list[Answer] = []
        self.refused: list[str] = []
        self._counts: Counter[str] = Counter()
        self._replay = Replay()
        self._replay.serve(self._answer)
        self.url = self._replay.url

    def close(self) -> None:
        """Stop."""
        self._replay.close()

    def _answer(self, request: Request) -> Script:
        case, _, path = request.path.strip("/").partition("/")
        if path != "v1/chat/completions":
            self.refused.append(f"{request.method} /{path}")
            return json_answer({"error": {"message": "nothing here", "type": "invalid_request_error"}}, status=404)
        body = request.json
        self._counts[case] += 1
        number = self._counts[case]
        streamed = bool(body.get("stream"))
        told = not streamed or bool((body.get("stream_options") or {}).get("include_usage"))
        # Ids and counts are the same in each run, and no two of one run are.
        identity = f"chatcmpl-{case}-{number}"
        order = sum(self._counts.values())
        answer = Answer(case, identity, streamed, told, 40 + order, 100 + order, body)
        self.answers.append(answer)
        return _script(answer, self._message(case, number, body), body.get("model"))

    def _message(self, case: str, number: int, body: Mapping[str, Any]) -> dict[str, Any]:
        """What the model says: the tool that there is, and then the text."""
        offered = [tool["function"]["name"] for tool in body.get("tools") or ()]
        # Not every framework says by the role that a message is a tool's.
        used = [message for message in body["messages"] if "Sun in Bern" in json.dumps(message)]
        wanted = next((name for name in _TOOLS if any(name in each for each in offered)), None)
        if used and wanted == "weather" and "final_answer" in offered:
            wanted = "final_answer"
        elif used and wanted != "Person":
            wanted = None
        if wanted is None:
            return {"role": "assistant", "content": self.text}
        wrong_first = case == "again" and number == 1
        arguments = json.dumps(_TOOLS[wanted][1 if wrong_first else 0])
        name = next(each for each in offered if wanted in each)
        call = {"id": f"call_{case}_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}
        return {"role": "assistant", "content": None, "tool_calls": [call]}


def _script(answer: Answer, message: dict[str, Any], model: str | None) -> Script:
    usage = {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
        "prompt_tokens_details": {"cached_tokens": CACHED},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    finish = "tool_calls" if "tool_calls" in message else "stop"
    said: dict[str, Any] = {"id": answer.id, "model": model}
    if not answer.streamed:
        body = completion(**said, usage=usage)
        body["choices"][0] |= {"message": message, "finish_reason": finish}
        return json_answer(body)
    if calls := message.get("tool_calls"):
        arguments = calls[0]["function"]["arguments"]
        first = {"index": 0, **calls[0], "function": {**calls[0]["function"], "arguments": ""}}
        pieces = [{"role": "assistant", "content": None, "tool_calls": [first]}]
        for part in (arguments[:7], arguments[7:]):
            pieces.append({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
    else:
        words = message["content"].split(" ")
        pieces = [{"role": "assistant", "content": ""}]
        pieces += [{"content": word if i == 0 else f" {word}"} for i, word in enumerate(words)]
    chunks = [*(chunk(piece, **said) for piece in pieces), chunk({}, finish=finish, **said)]
    if answer.told_usage:
        chunks.append(chunk(None, usage=usage, **said))
    return events_script(*chunks, itl=0.002)
