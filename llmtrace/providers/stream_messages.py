"""Joins the chunks of a stream in OpenAI's shape into the messages that they make, one for each choice.

Only used where content capture is on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from llmtrace.providers import parts
from llmtrace.providers.content_blocks import content_parts, drawn
from llmtrace.providers.parts import Part
from llmtrace.providers.safe import count, get, items, text


def place_of(choice: Any, place: int) -> int:
    """The index of a choice; where it has none, its place among those of its chunk."""
    index = count(get(choice, "index"))
    return place if index is None else index


@dataclass(slots=True)
class JoinedCall:
    """A tool call, as far as it has come."""

    id: str | None = None
    name: str | None = None
    arguments: Any = ""

    @property
    def is_whole(self) -> bool:
        """Nothing can follow on these arguments: they are a structure already, or whole JSON."""
        if not isinstance(self.arguments, str):
            return True
        try:
            json.loads(self.arguments)
        except ValueError:
            return False
        return True


@dataclass(slots=True)
class ChoiceMessage:
    """One choice, as far as it has come."""

    role: str = "assistant"
    end: str | None = None
    reasoning: list[Part] = field(default_factory=list[Part])
    content: list[Part] = field(default_factory=list[Part])
    refusal: list[Part] = field(default_factory=list[Part])
    calls: list[JoinedCall] = field(default_factory=list[JoinedCall])
    spoke: bool = False
    audio_id: str | None = None
    transcript: list[str] = field(default_factory=list[str])
    images: list[Part] = field(default_factory=list[Part])
    _slots: dict[int, JoinedCall] = field(default_factory=dict[int, JoinedCall])

    def add(self, choice: Any) -> None:
        """Take in the choice of one chunk."""
        delta = get(choice, "delta")
        self.role = text(get(delta, "role")) or self.role
        self.end = text(get(choice, "finish_reason")) or self.end
        for part in parts.reasonings(parts.reasoning_of(delta)):
            parts.append(self.reasoning, part)
        for part in content_parts(get(delta, "content")) or parts.texts(get(choice, "text")):
            parts.append(self.content, part)
        for part in parts.refusals(get(delta, "refusal")):
            parts.append(self.refusal, part)
        if (audio := get(delta, "audio")) is not None:
            self.spoke = True
            self.audio_id = text(get(audio, "id")) or self.audio_id
            self.transcript.append(text(get(audio, "transcript")) or "")
        self.images += drawn(delta)
        for call in items(get(delta, "tool_calls")):
            self.add_call(call)
        if (older := get(delta, "function_call")) is not None:
            self.add_call({"index": 0, "function": older})

    def add_call(self, delta: Any) -> None:
        """Take in a piece of a tool call: of the one at its index, or, where it has none, of its id or the last one.

        Some servers give every call the index 0, or none. So a piece that names a tool begins a call of its own if its
        id is another, or, without ids, if its name is another or nothing can follow on the arguments before it.
        """
        function = get(delta, "function")
        if function is None:
            function = get(delta, "custom")
        id, name = text(get(delta, "id")), text(get(function, "name"))
        arguments = get(function, "arguments")
        if arguments is None:
            arguments = get(function, "input")
        index = count(get(delta, "index"))
        call = self._open(index, id)
        if call is None or (name is not None and _is_another(call, id, name)):
            call = JoinedCall()
            self.calls.append(call)
        if index is not None:
            self._slots[index] = call
        call.id, call.name = call.id or id, call.name or name
        if isinstance(arguments, str) and isinstance(call.arguments, str):
            call.arguments += arguments
        elif arguments is not None and not isinstance(arguments, str):
            call.arguments = arguments

    def _open(self, index: int | None, id: str | None) -> JoinedCall | None:
        if index is not None:
            return self._slots.get(index)
        known = next((call for call in self.calls if id is not None and call.id == id), None)
        return known or (self.calls[-1] if self.calls else None)


def _is_another(call: JoinedCall, id: str | None, name: str) -> bool:
    if id is not None and call.id is not None:
        return id != call.id
    return name != call.name or call.is_whole
