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
        return {"role": role, "parts": [{"type": "text", "content": content}]}
    parts: list[dict[str, Any]] = []
    for part in items(get(content, "parts")) or [content]:
        call, written = get(part, "function_call"), text(get(part, "text"))
        if call is not None:
            arguments = get(call, "args")
            parts.append(
                {"type": "tool_call", "id": get(call, "id"), "name": get(call, "name"), "arguments": arguments}
            )
        elif written:
            parts.append({"type": "reasoning" if get(part, "thought") else "text", "content": written})
        else:
            parts.append({"type": "blob" if get(part, "inline_data") is not None else "other"})
    return {"role": text(get(content, "role")) or role, "parts": parts}


def _input(request: Request) -> list[dict[str, Any]]:
    contents = request.params.get("contents")
    return [_message(content, "user") for content in items(contents) or [contents]]


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
    chunks = items(answer) if streamed else [answer]
    reasons = _read_chunks(chunks, None).finish_reasons
    parts = [part for chunk in chunks for part in _message({"parts": _parts(chunk)}, "assistant")["parts"]]
    joined: list[dict[str, Any]] = []
    for part in parts:
        if joined and "content" in part and joined[-1]["type"] == part["type"]:
            joined[-1]["content"] += part["content"]
        else:
            joined.append(part)
    return [{"role": "assistant", "parts": joined, "finish_reason": (reasons or ("error",))[0].lower()}]


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
