"""Content generation and embeddings of Google's client (google-genai): how to read a request, a chunk, an answer.

Field names: google-genai's ``types.py`` (GenerateContentResponse, GenerateContentResponseUsageMetadata). Automatic
function calling makes several requests of one ``generate_content``: each is a call of its own here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmtrace import conventions
from llmtrace.observe.answer import Answer, Usage
from llmtrace.observe.call import NOTHING, OUTPUT, REASONING
from llmtrace.providers import parts
from llmtrace.providers.declare import Operation, Request
from llmtrace.providers.messages import instructions, tool
from llmtrace.providers.safe import count, fields, get, items, number, sampling, set_finish_reasons, text


def _read_request(body: Mapping[str, Any]) -> Request:
    model = text(body.get("model"))
    return Request(
        model=model.removeprefix("models/") if model else None,
        streaming=body.get("stream") is True,
        params=body,
        choices=count(get(body.get("config"), "candidate_count")) or 1,
    )


def _request_attributes(request: Request) -> dict[str, Any]:
    config = request.params.get("config")
    attributes = sampling(config, {"max_output_tokens": "max_tokens"})
    if (dimension := count(get(config, "output_dimensionality"))) is not None:
        attributes[conventions.DIMENSIONS] = dimension
    if request.choices != 1:
        attributes[conventions.CHOICE_COUNT] = request.choices
    if kind := text(get(config, "response_mime_type")):
        attributes[conventions.OUTPUT_TYPE] = "json" if kind == "application/json" else "text"
    if level := text(get(get(config, "thinking_config"), "thinking_level")):
        attributes[conventions.REASONING_LEVEL] = level.upper()  # so the client sends it, however it was written
    return attributes


def _parts(chunk: Any) -> list[Any]:
    parts: list[Any] = []
    for candidate in items(get(chunk, "candidates")):
        parts.extend(items(get(get(candidate, "content"), "parts")))
    return parts


_BRINGS = ("text", "function_call", "inline_data", "executable_code", "code_execution_result", "file_data", "tool_call")


def _classify_chunk(chunk: Any) -> int:
    """A part that is marked as a thought is reasoning, any other part with something in it is output."""
    kind = NOTHING
    for part in _parts(chunk):
        if any(get(part, name) for name in _BRINGS):
            if not get(part, "thought"):
                return OUTPUT
            kind = REASONING
    return kind


def _chunk_text(chunk: Any) -> tuple[str, int | None]:
    """The text of the parts, thoughts too."""
    return "".join(text(get(part, "text")) or "" for part in _parts(chunk)), None


def read_usage(usage: Any) -> Usage:
    """The token counts. The prompt's includes what the cache held; the candidates' leaves out the thoughts."""
    counts = {
        name: count(get(usage, f"{name}_token_count"))
        for name in ("prompt", "tool_use_prompt", "candidates", "thoughts", "cached_content")
    }

    def total(first: str, second: str) -> int | None:
        return None if counts[first] is counts[second] is None else (counts[first] or 0) + (counts[second] or 0)

    return Usage(
        input_tokens=total("prompt", "tool_use_prompt"),
        output_tokens=total("candidates", "thoughts"),
        cached_tokens=counts["cached_content"],
        reasoning_tokens=counts["thoughts"],
        input_by_modality=_by_modality(usage, "prompt_tokens_details", "tool_use_prompt_tokens_details"),
        output_by_modality=_by_modality(usage, "candidates_tokens_details"),
        cached_by_modality=_by_modality(usage, "cache_tokens_details"),
    )


def _by_modality(usage: Any, *fields: str) -> dict[str, int]:
    """Tokens of each modality, whose names are Google's in small letters: text, image, audio, video, document."""
    tokens_by_modality: dict[str, int] = {}
    for part in (part for field in fields for part in items(get(usage, field))):
        name, tokens = text(get(part, "modality")), count(get(part, "token_count") or get(part, "tokens"))
        if name and tokens and name != "MODALITY_UNSPECIFIED":
            tokens_by_modality[name.lower()] = tokens_by_modality.get(name.lower(), 0) + tokens
    return tokens_by_modality


def _read_chunks(chunks: Sequence[Any], headers: Mapping[str, str] | None) -> Answer:
    answer = Answer()
    reasons: dict[int, str] = {}
    for chunk in chunks:
        answer.id = answer.id or text(get(chunk, "response_id"))
        answer.model = text(get(chunk, "model_version")) or answer.model
        for place, candidate in enumerate(items(get(chunk, "candidates"))):
            if reason := text(get(candidate, "finish_reason")):
                index = count(get(candidate, "index"))
                reasons[place if index is None else index] = reason
        if (usage := get(chunk, "usage_metadata")) is not None:
            answer.usage = read_usage(usage)
    set_finish_reasons(answer, reasons)
    return answer


def _read_response(response: Any, headers: Mapping[str, str] | None) -> Answer:
    return _read_chunks([response], headers)


def _read_embeddings(response: Any, headers: Mapping[str, str] | None) -> Answer:
    counts = [
        number(get(get(embedding, "statistics"), "token_count")) for embedding in items(get(response, "embeddings"))
    ]
    input_tokens = [int(tokens) for tokens in counts if tokens is not None]
    prompt = count(get(get(response, "usage_metadata"), "prompt_token_count"))
    return Answer(usage=Usage(input_tokens=sum(input_tokens) if input_tokens else prompt))


def _message(content: Any, role: str) -> dict[str, Any]:
    if isinstance(content, str):
        return {"role": role, "parts": parts.texts(content)}
    held = get(content, "parts")
    blocks = items(held) if held is not None or get(content, "role") is not None else (content,)
    made = [_part(part) for part in blocks]
    return {"role": text(get(content, "role")) or role, "parts": [part for part in made if part is not None]}


def _field(source: Any, name: str) -> Any:
    """A field by its name, or by the name that the API itself has for it: ``inlineData``."""
    value = get(source, name)
    first, *rest = name.split("_")
    return get(source, first + "".join(map(str.capitalize, rest))) if value is None and rest else value


def _part(part: Any) -> parts.Part | None:
    """One part of a content; None for one that has nothing in it."""
    if isinstance(part, str):
        return next(iter(parts.texts(part)), None)
    if (call := _field(part, "function_call")) is not None:
        return parts.tool_call(get(call, "id"), get(call, "name"), get(call, "args"))
    if (result := _field(part, "function_response")) is not None:
        return parts.tool_result(get(result, "id") or get(result, "name"), get(result, "response"))
    if (code := _field(part, "executable_code")) is not None:
        return parts.server_call(get(code, "id"), "code_execution", {name: get(code, name) for name in _CODE})
    if (outcome := _field(part, "code_execution_result")) is not None:
        details = {name: get(outcome, name) for name in _OUTCOME}
        return parts.server_result(get(outcome, "id"), "code_execution", details)
    if written := text(get(part, "text")):
        return (parts.reasonings if get(part, "thought") else parts.texts)(written)[0]
    mime_type = next((_field(_field(part, name), "mime_type") for name in _MEDIA if _field(part, name)), None)
    modality = (text(mime_type) or "").partition("/")[0]
    marks = {"modality": modality if modality in ("image", "audio", "video") else "document"}
    marks |= {"mime_type": mime_type} if text(mime_type) else {}
    if text(uri := _field(_field(part, "file_data") or part, "file_uri") or get(part, "uri")):
        return {"type": "uri", **marks, "uri": uri}
    if _field(part, "inline_data") is not None:
        return {"type": "inline_data", **marks}
    if not isinstance(part, Mapping) and not hasattr(type(part), "model_fields"):
        return None if part is None else {"type": type(part).__name__}  # an image of another library's
    named = (name for name, value in fields(part).items() if value is not None and name not in _NO_PART)
    kind = next(named, None)
    return None if kind is None else parts.other(kind, get(part, kind))


_CODE = ("language", "code")
_OUTCOME = ("outcome", "output")
_MEDIA = ("inline_data", "file_data")
_NO_PART = frozenset({"text", "thought", "thought_signature", "thoughtSignature"})
"""Fields that are no part by themselves: an empty text, say."""


def _input(request: Request) -> list[dict[str, Any]]:
    """The messages sent. Texts and parts that stand alone are one message, as the client sends them."""
    contents = request.params.get("contents")
    messages: list[dict[str, Any]] = []
    alone = False
    for content in items(contents) or [contents]:
        message = _message(content, "user")
        was_alone, alone = alone, get(content, "parts") is None and get(content, "role") is None
        if alone and was_alone:
            messages[-1]["parts"] += message["parts"]
        else:
            messages.append(message)
    return messages


def _instructions(request: Request) -> list[dict[str, Any]]:
    instruction = get(request.params.get("config"), "system_instruction")
    return instructions(
        items(get(instruction, "parts")) or ([instruction] if get(instruction, "text") else instruction)
    )


def _tools(request: Request) -> list[dict[str, Any]]:
    """The tools: declared functions and Python functions by name, Google's built-in ones by their field's name."""
    definitions: list[dict[str, Any]] = []
    for entry in items(get(request.params.get("config"), "tools")):
        if callable(entry):
            definitions.append(tool(entry))
        elif isinstance(entry, Mapping) or hasattr(type(entry), "model_fields"):
            for name, value in fields(entry).items():
                if name in ("function_declarations", "functionDeclarations"):
                    definitions += [{"type": "function", "name": tool(function)["name"]} for function in items(value)]
                elif value is not None:
                    definitions.append({"type": name, "name": name})
    return definitions


def _output(answer: Sequence[Any] | Any, streamed: bool) -> list[dict[str, Any]]:
    """One message for each candidate, from a whole answer or joined from all chunks of a stream."""
    made: dict[int, list[parts.Part]] = {}
    ends: dict[int, str] = {}
    for chunk in items(answer) if streamed else (answer,):
        for place, candidate in enumerate(items(get(chunk, "candidates"))):
            index = count(get(candidate, "index"))
            index = place if index is None else index
            for part in _message(get(candidate, "content") or {"parts": ()}, "assistant")["parts"]:
                parts.append(made.setdefault(index, []), part)
            if reason := text(get(candidate, "finish_reason")):
                ends[index] = reason.lower()
    return [
        {"role": "assistant", "parts": made.get(index, []), "finish_reason": ends.get(index, "error")}
        for index in sorted({*made, *ends})
    ]


GENERATE = Operation(
    name="generate_content",
    read_request=_read_request,
    request_attributes=_request_attributes,
    classify_chunk=_classify_chunk,
    chunk_text=_chunk_text,
    ends=lambda chunk: any(get(each, "finish_reason") for each in items(get(chunk, "candidates"))),
    read_chunks=_read_chunks,
    read_response=_read_response,
    system_instructions=_instructions,
    tool_definitions=_tools,
    input_messages=_input,
    output_messages=_output,
)
EMBED = Operation(
    name="embeddings",
    read_request=_read_request,
    request_attributes=_request_attributes,
    classify_chunk=lambda chunk: NOTHING,
    read_chunks=_read_chunks,
    read_response=_read_embeddings,
)
