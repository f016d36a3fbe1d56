"""Messages in the shape of the GenAI conventions' ``gen_ai.input.messages`` and ``gen_ai.output.messages``.

Only used where content capture is on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmtrace.providers import parts
from llmtrace.providers.content_blocks import content_parts, drawn
from llmtrace.providers.declare import Request
from llmtrace.providers.parts import Part
from llmtrace.providers.safe import get, items, text

if TYPE_CHECKING:
    from llmtrace.providers.stream_messages import ChoiceMessage


def instructions(system: Any) -> list[Part]:
    """System instructions as parts of a message, from a text or from a list of texts and text blocks."""
    blocks = [system] if isinstance(system, str) else items(system)
    texts = (block if isinstance(block, str) else text(get(block, "text")) for block in blocks)
    return [{"type": "text", "content": string} for string in texts if string]


def system_text(request: Request) -> list[Part]:
    """The field ``system`` of a request, as parts."""
    return instructions(request.params.get("system"))


def tool_definitions(request: Request) -> list[dict[str, Any]]:
    """The tools of a request's ``tools`` or, in OpenAI's older API, ``functions``."""
    params = request.params
    return [tool(definition) for definition in (*items(params.get("tools")), *items(params.get("functions")))]


def tool(definition: Any) -> dict[str, Any]:
    """The type and name of a tool of any API; description and parameters are left out, as the conventions advise.

    The name may lie beside the type, or in an object named after it. A tool that a provider has built in may have no
    name but its type.
    """
    kind = text(get(definition, "type")) or "function"
    name = text(get(definition, "name")) or text(get(get(definition, kind), "name"))
    return {"type": kind, "name": name or text(getattr(definition, "__name__", None)) or kind}


def user_message(prompt: Any) -> list[dict[str, Any]]:
    """A prompt that is one text, as a message; no message where it is none."""
    return [{"role": "user", "parts": written}] if (written := parts.texts(prompt)) else []


def chat_input(request: Request) -> list[dict[str, Any]]:
    """The messages sent: ``[{"role": ..., "parts": [...]}, ...]``."""
    return [chat_message(message) for message in items(request.params.get("messages"))]


def chat_message(message: Any) -> dict[str, Any]:
    """One message of a history; ``name`` is its author's, where there is one."""
    author = {"name": name} if (name := text(get(message, "name"))) else {}
    return {"role": text(get(message, "role")) or "user", "parts": message_parts(message), **author}


def prompt_input(request: Request) -> list[dict[str, Any]]:
    """The prompts of a text completion, as messages."""
    prompt = request.params.get("prompt")
    return [
        message for each in ([prompt] if isinstance(prompt, str) else items(prompt)) for message in user_message(each)
    ]


def chat_output(answer: Sequence[Any] | Any, streamed: bool) -> list[dict[str, Any]]:
    """The messages received, from all chunks of a stream or from the whole response."""
    if streamed:
        return _join(items(answer))
    return [
        {
            "role": text(get(get(choice, "message"), "role")) or "assistant",
            "parts": message_parts(get(choice, "message")) or parts.texts(get(choice, "text")),
            "finish_reason": text(get(choice, "finish_reason")) or "error",
        }
        for choice in items(get(answer, "choices"))
    ]


def message_parts(message: Any) -> list[Part]:
    """The parts of a message in OpenAI's shape: what was thought, said, refused, spoken and called, in this order."""
    content = get(message, "content")
    if get(message, "role") in ("tool", "function"):
        return [parts.tool_result(get(message, "tool_call_id"), content)]
    made = [
        *parts.reasonings(parts.reasoning_of(message)),
        *content_parts(content),
        *parts.refusals(get(message, "refusal")),
    ]
    if (audio := get(message, "audio")) is not None:
        made.append(spoken(text(get(audio, "transcript")), text(get(audio, "id"))))
    made += drawn(message)
    for call in items(get(message, "tool_calls")):
        function = get(call, "function")
        if function is not None:
            made.append(parts.tool_call(get(call, "id"), get(function, "name"), get(function, "arguments")))
        else:
            custom = get(call, "custom")
            made.append(parts.tool_call(get(call, "id"), get(custom, "name"), get(custom, "input")))
    if (older := get(message, "function_call")) is not None:
        made.append(parts.tool_call(None, get(older, "name"), get(older, "arguments")))
    return made


def spoken(transcript: str | None, id: str | None) -> Part:
    """What a model spoke: its transcript, if there is one, without the sound."""
    details = {"id": id, "transcript": transcript}
    return {"type": "audio", "modality": "audio", **{name: value for name, value in details.items() if value}}


def _join(chunks: Sequence[Any]) -> list[dict[str, Any]]:
    from llmtrace.providers.stream_messages import ChoiceMessage, place_of  # here, since few programs capture content

    choices: dict[int, ChoiceMessage] = {}
    for chunk in chunks:
        for place, choice in enumerate(items(get(chunk, "choices"))):
            choices.setdefault(place_of(choice, place), ChoiceMessage()).add(choice)
    return [joined_message(choice) for _, choice in sorted(choices.items())]


def joined_message(choice: ChoiceMessage) -> dict[str, Any]:
    """The message that the chunks of one choice make."""
    made = [*choice.reasoning, *choice.content, *choice.refusal]
    if choice.spoke:
        made.append(spoken("".join(choice.transcript), choice.audio_id))
    made += choice.images
    made += [parts.tool_call(call.id, call.name, call.arguments) for call in choice.calls]
    return {"role": choice.role, "parts": made, "finish_reason": choice.end or "error"}
