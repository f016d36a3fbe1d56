"""The parts of a message in the GenAI conventions' shapes, and the leaving out of binary data at any depth.

Only used where content capture is on.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Final

from llmtrace.providers.safe import fields, get, items, text

Part = dict[str, Any]


class _Pattern:
    """A regular expression that is compiled when it is first wanted: few programs capture content."""

    def __init__(self, source: str, flags: int = 0) -> None:
        self._source, self._flags = source, flags

    @cached_property
    def compiled(self) -> re.Pattern[str]:
        return re.compile(self._source, self._flags)


LEFT_OUT: Final = "<binary data left out>"
"""What stands where binary data was."""
_DEEPEST = 64
_LONG = 512
"""Characters from which a text that could be base64 is looked at more closely."""
_LETTERS = 24
"""Different characters that so much base64 has at least; a text of one repeated letter, or of DNA, has fewer."""
_LETTER = "[A-Za-z0-9+/_-]"
_BREAK = r"(?:\r?\n|(?:\\+r)?\\+n)"
"""The end of a line, or how JSON writes it, also JSON within JSON."""
_LINES = rf"(?:(?:{_BREAK}{_LETTER}{{60,}})+(?:{_BREAK}{_LETTER}+(?:={{1,2}}|\s*\Z))?)?={{0,2}}"
"""What follows on the first line of base64 where it is wrapped."""
_DATA_URL = _Pattern(rf"data:[^,;\"'<>\s]{{0,100}}(?:;[^,;\"'<>\n]{{0,100}})*;base64,[A-Za-z0-9+/=_%-]+{_LINES}")
_BASE64 = _Pattern(rf"{_LETTER}{{60,}}{_LINES}")
_BEGINS = _Pattern(r"""\{\s*["']|\[\s*[\[{"']""")
"""How JSON, or what Python prints of a dict or list, can begin where it holds data; "[INFO]" is none."""
_QUOTED_OR_BRACKET = _Pattern(r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[\[\]{}()]""", re.DOTALL)
_ESCAPED = _Pattern(r"\\(.)", re.DOTALL)
_PRINTED_ESCAPES = frozenset("\\'\"nrtxuU")
_LONGEST_PRINTED = 256 << 10
"""Characters of a printed dict or list that is looked into."""
_MOST_DOCUMENTS = 32
"""JSON documents within one text that are looked for."""
_MIME_TYPES = ("mime_type", "mimeType", "media_type", "mediaType", "content_type", "contentType")
_TEXT_TYPES = ("text/", "application/json", "application/xml")
_ALWAYS_DATA = frozenset(
    {"file_data", "fileData", "b64_json", "image_base64"}
    | {"encrypted_content", "encrypted_index", "encrypted_stdout", "thought_signature", "thoughtSignature"}
)
"""Fields that hold nothing else."""
_DATA_FIELDS = _ALWAYS_DATA | {
    *("data", "bytes", "blob", "base64", "image", "audio", "video", "image_data", "image_url", "input_audio"),
    *("document_url", "file", "signature"),
}
_SOUND = "input_audio"
_NAMES_DATA = _Pattern("[\"'](?:" + "|".join(sorted(_DATA_FIELDS)) + r")\\*[\"']\s*:")
_BINARY_TYPES = frozenset(
    {"base64", "blob", "image", "input_image", "audio", "input_audio", "video", "file", "input_file", "document"}
)
_FORMATS = frozenset(
    [
        "png",
        "jpeg",
        "jpg",
        "gif",
        "webp",
        "bmp",
        "tiff",
        "wav",
        "mp3",
        "flac",
        "ogg",
        "opus",
        "aac",
        "m4a",
        "pcm",
        "pcm16",
        "g711_ulaw",
        "g711_alaw",
        "mp4",
        "mov",
        "mkv",
        "webm",
        "mpeg",
        "mpg",
        "wmv",
        "flv",
        "three_gp",
        "pdf",
    ]
)
_MEDIA = ("image", "audio", "video", "document", "file", "media")
_RESERVED = frozenset(
    {"text", "reasoning", "tool_call", "tool_call_response", "server_tool_call", "server_tool_call_response"}
    | {"blob", "file", "uri", "compaction"}
)
"""Types whose fields the conventions set down."""
_URLS = ("url", "uri", "file_uri", "fileUri", "file_url", "image_url", "document_url", "video_url", "audio_url")
_FILE_IDS = ("file_id", "fileId")


def texts(content: Any) -> list[Part]:
    """A text as a part; none for what is empty or no text."""
    return [{"type": "text", "content": string}] if (string := text(content)) else []


def reasoning_of(source: Any) -> str | None:
    """The reasoning in a message or delta, under the name that vLLM, SGLang and DeepSeek, or that OpenRouter and Groq
    have for it."""
    return text(get(source, "reasoning_content")) or text(get(source, "reasoning"))


def reasonings(content: Any) -> list[Part]:
    """What a model thought, as a part; none for what is empty or no text."""
    return [{"type": "reasoning", "content": string}] if (string := text(content)) else []


def refusals(content: Any) -> list[Part]:
    """Why a model refused, as a part; none for what is empty or no text."""
    return [{"type": "refusal", "content": string}] if (string := text(content)) else []


def tool_call(id: Any, name: Any, arguments: Any) -> Part:
    """A tool call of the model's. ``arguments`` stay as the API has them: JSON text or a structure."""
    whole = {"id": text(id), "name": text(name) or "unknown", "arguments": without_binary(arguments)}
    return {"type": "tool_call", **whole}


def tool_result(id: Any, response: Any) -> Part:
    """The result of a tool call, sent to the model."""
    return {"type": "tool_call_response", "id": text(id), "response": without_binary(response)}


def server_call(id: Any, name: Any, arguments: Any) -> Part:
    """A call of a tool that the provider runs itself."""
    tool = text(name) or "unknown"
    details = {"type": tool, "arguments": without_binary(arguments)}
    return {"type": "server_tool_call", "id": text(id), "name": tool, "server_tool_call": details}


def server_result(id: Any, kind: str, response: Any) -> Part:
    """The result of such a call. ``kind``: what the API calls it."""
    details = {"type": kind, "response": without_binary(response)}
    return {"type": "server_tool_call_response", "id": text(id), "server_tool_call_response": details}


def other(kind: str, source: Any) -> Part:
    """A part of any other kind, with its fields but for binary data.

    Images, recordings and files that lie elsewhere are told by where: as ``uri`` or ``file``.
    """
    if any(word in kind for word in _MEDIA):
        modality = next((word for word in ("image", "audio", "video") if word in kind), "document")
        holders = [source, get(source, "source"), get(source, kind), get(get(source, "source"), "s3Location")]
        mime = {"mime_type": value} if (value := _first(holders, _MIME_TYPES)) else {}
        place = _first(holders, _URLS) or text(get(source, kind)) or text(get(source, "source"))
        if place and "://" in place[:16]:
            return {"type": "uri", "modality": modality, **mime, "uri": place}
        if file_id := _first(holders, _FILE_IDS):
            return {"type": "file", "modality": modality, **mime, "file_id": file_id}
    stripped = without_binary(source)
    inner = stripped if isinstance(stripped, dict) else {}
    return {**inner, "type": f"provider_{kind}" if kind in _RESERVED else kind}


def _first(holders: list[Any], names: tuple[str, ...]) -> str | None:
    return next((value for holder in holders for name in names if (value := text(get(holder, name)))), None)


def append(parts: list[Part], part: Part) -> None:
    """Add a part to those before it; text or reasoning goes on where the last part is of the same type."""
    if parts and "content" in part and parts[-1]["type"] == part["type"] in ("text", "reasoning", "refusal"):
        parts[-1]["content"] += part["content"]
    else:
        parts.append(part)


def parsed_arguments(arguments: str) -> Any:
    """The structure that a stream brought as JSON text; the text itself where it is cut short."""
    try:
        return json.loads(arguments) if arguments else {}
    except ValueError:
        return arguments


def without_data_urls(value: Any) -> Any:
    """A copy of parts or messages in which ``LEFT_OUT`` stands for each data URL, in whatever text it is."""
    if isinstance(value, str):
        return _DATA_URL.compiled.sub(LEFT_OUT, value) if "base64," in value else value
    if isinstance(value, Mapping):
        whole: Mapping[Any, Any] = value
        return {name: without_data_urls(inner) for name, inner in whole.items()}
    return [without_data_urls(inner) for inner in items(value)] if isinstance(value, (list, tuple)) else value


def without_binary(value: Any, depth: int = 0, *, sound: bool = False) -> Any:
    """A copy of a structure in which ``LEFT_OUT`` stands for each image, recording or file, and for encrypted data.

    Binary are bytes, data URLs and long base64 (also within a text), and the data of what names its format, however
    short. JSON within a text is looked into. Objects of a client's become mappings. ``sound``: it is a recording.
    """
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return _text_without_binary(value, depth)
    if isinstance(value, (bytes, bytearray, memoryview)) or depth > _DEEPEST:
        return LEFT_OUT
    if isinstance(value, (list, tuple)):
        return [without_binary(inner, depth + 1) for inner in items(value)]
    known: Any = value if isinstance(value, Mapping) else _object_fields(value)
    if known is None:
        return f"<{type(value).__name__}>"
    whole: Mapping[Any, Any] = known
    data = _DATA_FIELDS if sound or _holds_binary(whole) else _ALWAYS_DATA
    return {
        str(name): LEFT_OUT
        if name in data and isinstance(inner, str) and "://" not in inner[:16]
        else without_binary(inner, depth + 1, sound=name == _SOUND)
        for name, inner in whole.items()
    }


def _object_fields(value: Any) -> Mapping[str, Any] | None:
    """The fields that an object of a client's has a value for; None for an object of any other make."""
    if not (hasattr(type(value), "model_fields") or (is_dataclass(value) and not isinstance(value, type))):
        return None
    return {name: inner for name, inner in fields(value).items() if inner is not None and not name.startswith("_")}


def _holds_binary(whole: Mapping[Any, Any]) -> bool:
    mime = next((value for name in _MIME_TYPES if isinstance(value := whole.get(name), str)), None)
    if mime is not None:
        return not mime.startswith(_TEXT_TYPES)
    kind, form = whole.get("type"), whole.get("format")
    return (isinstance(kind, str) and kind in _BINARY_TYPES) or (isinstance(form, str) and form in _FORMATS)


def _text_without_binary(value: str, depth: int) -> str:
    string = without_data_urls(str.__str__(value))
    # Some write a slash in JSON as \/
    if depth < _DEEPEST and ("\\/" in string or _NAMES_DATA.compiled.search(string)):
        string = _documents_without_binary(string, depth)
    return _BASE64.compiled.sub(_unless_text, string) if len(string) >= _LONG else string


def _unless_text(run: re.Match[str]) -> str:
    """What stands for a run of base64's letters: itself where it is short or no data."""
    string = run[0]
    return LEFT_OUT if len(string) >= _LONG and len(set(string[:_LONG])) >= _LETTERS else string


def _documents_without_binary(string: str, depth: int) -> str:
    """A text in which the JSON documents, and the dicts and lists as Python prints them, are without binary data,
    wherever they begin. Others stay as they are."""
    pieces, place = list[str](), 0
    for begun in islice(_BEGINS.compiled.finditer(string), _MOST_DOCUMENTS):
        if begun.start() < place:
            continue
        document = _json_without_binary(string, begun.start(), depth) or _printed_without_binary(
            string, begun.start(), depth
        )
        if document is not None:
            pieces += string[place : begun.start()], document[0]
            place = document[1]
    return "".join((*pieces, string[place:]))


def _json_without_binary(string: str, start: int, depth: int) -> tuple[str, int] | None:
    """The JSON document that begins at ``start``, and where it ends; None where there is none."""
    try:
        whole, end = json.JSONDecoder().raw_decode(string, start)
    except (ValueError, RecursionError):
        return None
    stripped = without_binary(whole, depth + 1)
    return string[start:end] if stripped == whole else json.dumps(stripped, ensure_ascii=False), end


def _printed_without_binary(string: str, start: int, depth: int) -> tuple[str, int] | None:
    """The same of a dict or list as Python prints it; None where it holds anything but plain values."""
    open_brackets = 0
    for token in _QUOTED_OR_BRACKET.compiled.finditer(string, start, start + _LONGEST_PRINTED):
        open_brackets += (token[0] in "[{(") - (token[0] in "]})")
        if open_brackets == 0:
            break
    else:
        return None
    source = string[start : token.end()]
    if not _PRINTED_ESCAPES.issuperset(_ESCAPED.compiled.findall(source)):
        return None  # nothing that Python printed, and its parser would warn of it
    try:
        stripped = without_binary(ast.literal_eval(source), depth + 1)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    printed = repr(stripped)
    return printed if LEFT_OUT in printed else source, token.end()
