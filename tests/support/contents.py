"""What a request and an answer say in words, read off their JSON alone: no client, none of llmtrace's code.

``Told`` is one message boiled down: all text of a kind run together, calls and results in their order. What a span says
is boiled down the same way (``boiled``), so the two can be compared whatever the parts they come in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Told:
    """One message."""

    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    transcript: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Name and arguments."""
    results: list[str] = field(default_factory=list[str])


def at(source: Any, *path: str | int) -> Any:
    for key in path:
        try:
            source = source[key]
        except (LookupError, TypeError):
            return None
    return source


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def word(value: Any) -> str:
    return value if isinstance(value, str) else ""


def arguments(value: Any) -> str:
    """Arguments in one spelling, whether they came as JSON text or as a structure."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return value
    return json.dumps(value or {}, sort_keys=True)


def flat(value: Any) -> str:
    """Every text in a result, run together."""
    if isinstance(value, dict):
        return "".join(flat(inner) for name, inner in value.items() if name != "type")
    return "".join(map(flat, value)) if isinstance(value, list) else word(value)


# ---- what the span says ----------------------------------------------------------------------------------------------


def boiled(message: dict[str, Any]) -> Told:
    told = Told()
    for part in message["parts"]:
        kind = part["type"]
        if kind in ("text", "reasoning", "refusal"):
            setattr(told, kind, getattr(told, kind) + part["content"])
        elif kind == "tool_call":
            told.calls.append((part["name"], arguments(part["arguments"])))
        elif kind == "tool_call_response":
            told.results.append(flat(part["response"]))
        elif kind == "audio":
            told.transcript += part.get("transcript", "")
    return told


# ---- what a body says ------------------------------------------------------------------------------------------------


def blocks(told: Told, content: Any) -> Told:
    """Add the content of a message of any API."""
    for block in [content] if isinstance(content, str) else listed(content):
        kind = at(block, "type")
        if isinstance(block, str):
            told.text += block
        elif kind in ("thinking", "reasoning"):
            thought = at(block, "thinking")
            told.reasoning += word(thought) or "".join(word(at(each, "text")) for each in listed(thought))
        elif kind == "tool_use":
            told.calls.append((block["name"], arguments(block["input"])))
        elif kind == "tool_result":
            told.results.append(flat(block.get("content")))
        elif at(block, "toolUse"):
            told.calls.append((at(block, "toolUse", "name"), arguments(at(block, "toolUse", "input"))))
        elif at(block, "toolResult"):
            told.results.append(flat(at(block, "toolResult", "content")))
        elif at(block, "guardContent"):
            told.text += word(at(block, "guardContent", "text", "text"))
        else:
            told.refusal += word(at(block, "refusal"))
            told.text += word(at(block, "text"))
            told.reasoning += word(at(block, "reasoningContent", "reasoningText", "text"))
    return told


def spoken_to(message: Any) -> Told:
    """One message of a request's history, or of a whole answer, in OpenAI's shape or Anthropic's."""
    if at(message, "role") == "tool":
        return Told(results=[flat(message.get("content"))])
    told = blocks(Told(), at(message, "content"))
    told.reasoning = word(at(message, "reasoning_content")) or word(at(message, "reasoning")) or told.reasoning
    told.reasoning = word(at(message, "tool_plan")) + told.reasoning + word(at(message, "thinking"))
    told.refusal += word(at(message, "refusal"))
    told.transcript = word(at(message, "audio", "transcript"))
    for call in listed(at(message, "tool_calls")):
        told.calls.append((at(call, "function", "name"), arguments(at(call, "function", "arguments"))))
    if older := at(message, "function_call"):
        told.calls.append((older["name"], arguments(older["arguments"])))
    return told


def nothing(told: Told) -> bool:
    return told == Told()


def completions(answers: Sequence[Any], streamed: bool) -> list[Told]:
    if not streamed:
        whole = listed(at(answers[0], "choices"))
        return [spoken_to(at(c, "message")) if at(c, "message") else Told(text=word(at(c, "text"))) for c in whole]
    pieces: dict[int, list[Any]] = {}
    for choice in (choice for answer in answers for choice in listed(at(answer, "choices"))):
        pieces.setdefault(choice.get("index", 0), []).append(choice)
    return [joined([at(piece, "delta") or piece for piece in pieces[index]]) for index in sorted(pieces)]


def joined(deltas: Iterable[Any]) -> Told:
    """A choice of a stream whose calls all have an index of their own."""
    told, calls = Told(), dict[int, list[str]]()
    for delta in deltas:
        told.text += word(at(delta, "content")) + word(at(delta, "text"))
        told.reasoning += word(at(delta, "reasoning_content")) or word(at(delta, "reasoning"))
        told.refusal += word(at(delta, "refusal"))
        told.transcript += word(at(delta, "audio", "transcript"))
        if isinstance(at(delta, "content"), list):
            more = blocks(Told(), delta["content"])
            told.text, told.reasoning = told.text + more.text, told.reasoning + more.reasoning
        for call in listed(at(delta, "tool_calls")) + ([{"function": f}] if (f := at(delta, "function_call")) else []):
            entry = calls.setdefault(call.get("index", 0), ["", ""])
            entry[0] = entry[0] or word(at(call, "function", "name"))
            entry[1] += word(at(call, "function", "arguments"))
    told.calls = [(name, arguments(text)) for name, text in calls.values()]
    return told


def messages(answers: Sequence[Any], streamed: bool) -> list[Told]:
    """Anthropic's."""
    if at(answers[-1], "type") == "completion":
        return [Told(text="".join(word(at(answer, "completion")) for answer in answers))]
    if not streamed:
        return [blocks(Told(), answers[0]["content"])]
    told, calls = Told(), dict[int, list[str]]()
    for event in answers:
        opened, delta = at(event, "content_block"), at(event, "delta")
        told.text += word(at(opened, "text")) + word(at(delta, "text"))
        told.reasoning += word(at(opened, "thinking")) + word(at(delta, "thinking"))
        if at(opened, "type") == "tool_use":
            calls[event["index"]] = [opened["name"], ""]
        if at(event, "index") in calls:
            calls[event["index"]][1] += word(at(delta, "partial_json"))
    told.calls = [(name, arguments(text)) for name, text in calls.values()]
    return [told]


def responses(answers: Sequence[Any], streamed: bool) -> list[Told]:
    state = [answer["response"] for answer in answers if "response" in answer][-1] if streamed else answers[0]
    told = Told()
    for item in state["output"]:
        add_item(told, item)
    return [told]


def add_item(told: Told, item: Any) -> Told:
    kind = item.get("type", "message")
    if kind == "reasoning":
        told.reasoning += "".join(word(at(each, "text")) for each in item["summary"] + listed(item.get("content")))
    elif kind == "function_call":
        told.calls.append((item["name"], arguments(item["arguments"])))
    elif kind == "function_call_output":
        told.results.append(flat(item["output"]))
    elif kind == "message":
        blocks(told, item["content"])
    return told


def google(answers: Sequence[Any], streamed: bool) -> list[Told]:
    told = Told()
    for part in (part for answer in answers for part in listed(at(answer, "candidates", 0, "content", "parts"))):
        if "functionCall" in part:
            told.calls.append((part["functionCall"]["name"], arguments(part["functionCall"]["args"])))
        elif part.get("thought"):
            told.reasoning += word(part.get("text"))
        else:
            told.text += word(part.get("text"))
    return [told]


def cohere(answers: Sequence[Any], streamed: bool) -> list[Told]:
    last = at(answers[-1], "response") or (None if streamed else answers[0])
    if listed(at(last, "generations")):
        return [Told(text=each["text"]) for each in last["generations"]]
    if last is not None:
        return [spoken_to(last["message"]) if "message" in last else Told(text=word(last["text"]))]
    told, calls = Told(), list[list[str]]()
    for event in answers:
        message = at(event, "delta", "message")
        told.reasoning += word(at(message, "tool_plan")) + word(at(message, "content", "thinking"))
        told.text += word(at(message, "content", "text"))
        if event["type"] == "tool-call-start":
            calls.append([at(message, "tool_calls", "function", "name"), ""])
        if event["type"].startswith("tool-call") and message:
            calls[-1][1] += word(at(message, "tool_calls", "function", "arguments"))
    told.calls = [(name, arguments(text)) for name, text in calls]
    return [told]


def ollama(answers: Sequence[Any], streamed: bool) -> list[Told]:
    told = Told()
    for answer in answers:
        message = at(answer, "message") or answer
        told.text += word(at(message, "content")) + word(at(message, "response"))
        told.reasoning += word(at(message, "thinking"))
        for call in listed(at(message, "tool_calls")):
            told.calls.append((at(call, "function", "name"), arguments(at(call, "function", "arguments"))))
    return [told]


def bedrock(answers: Sequence[Any], streamed: bool) -> list[Told]:
    first = answers[0]
    if at(first, "output", "message"):
        return [blocks(Told(), first["output"]["message"]["content"])]
    if any("messageStart" in answer for answer in answers):
        return [converse_stream([event for answer in answers for event in answer.items()])]
    if "role" in first and streamed:  # Converse's own stream, whose payloads have no name around them
        return [converse_stream([(_CONVERSE_EVENT(answer), answer) for answer in answers])]
    if "content" in first or any("content_block" in answer for answer in answers):
        return messages(answers, streamed)
    several = [one for name in ("results", "generations", "completions", "choices", "outputs") for one in
               (listed(at(first, name)))]  # fmt: skip
    if not streamed and several:
        return [Told(text=_maker_text(one)) for one in several]
    return [Told(text="".join(map(_maker_text, answers)))]


def _maker_text(answer: Any) -> str:
    names = ("outputText", "text", "generation", "completion")
    return "".join(word(at(answer, name)) for name in names) or word(at(answer, "data", "text"))


def _CONVERSE_EVENT(payload: Any) -> str:
    if "start" in payload:
        return "contentBlockStart"
    return "contentBlockDelta" if "delta" in payload else "other"


def converse_stream(events: Sequence[tuple[str, Any]]) -> Told:
    told, calls = Told(), dict[int, list[str]]()
    for name, payload in events:
        place = at(payload, "contentBlockIndex")
        if name == "contentBlockStart" and at(payload, "start", "toolUse"):
            calls[place] = [at(payload, "start", "toolUse", "name"), ""]
        if name == "contentBlockDelta":
            told.text += word(at(payload, "delta", "text"))
            told.reasoning += word(at(payload, "delta", "reasoningContent", "text"))
            if at(payload, "delta", "toolUse"):
                calls[place][1] += at(payload, "delta", "toolUse", "input")
    told.calls = [(name, arguments(text)) for name, text in calls.values()]
    return told


# ---- what a request says ---------------------------------------------------------------------------------------------


def asked(request: Any) -> list[Told]:
    """The messages of a request of any API."""
    if isinstance(request.get("input"), str):
        return [Told(text=request["input"])]
    if listed(request.get("input")):
        return [add_item(Told(), item) for item in request["input"]]
    if listed(request.get("messages")):
        return [spoken_to(message) for message in request["messages"]]
    prompt = request.get("prompt") or request.get("inputText") or request.get("message")
    prompts = [prompt] if isinstance(prompt, str) else listed(prompt)
    return [Told(text=each) for each in prompts if isinstance(each, str)]


def instructed(request: Any) -> str:
    """The instructions that an API takes apart from the history."""
    told = [request.get("system"), request.get("instructions"), request.get("preamble")]
    return "".join(blocks(Told(), each).text for each in told)


def tool_names(request: Any) -> list[str]:
    tools = [tool.get("function", tool) for tool in listed(request.get("tools")) + listed(request.get("functions"))]
    tools += [tool["toolSpec"] for tool in listed(at(request, "toolConfig", "tools")) if "toolSpec" in tool]
    return [tool.get("name") or tool["type"] for tool in tools]
