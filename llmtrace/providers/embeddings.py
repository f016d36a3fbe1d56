"""Embeddings in OpenAI's shape. Field names: openai-python's ``types/embedding_create_params`` and its response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmtrace import conventions
from llmtrace.observe.answer import Answer, Usage
from llmtrace.observe.call import NOTHING
from llmtrace.providers.declare import Operation, Request
from llmtrace.providers.failures import failure_in
from llmtrace.providers.gateways import read_body
from llmtrace.providers.safe import count, extras, fields, get, text
from llmtrace.providers.timings import read_timings


def read_request(body: Mapping[str, Any]) -> Request:
    """The model of a request's body."""
    return Request(model=text(body.get("model")), streaming=False, params=body)


def request_attributes(request: Request) -> dict[str, Any]:
    """Dimensions and encoding, where the request says them."""
    attributes: dict[str, Any] = {}
    if (dimensions := count(request.params.get("dimensions"))) is not None:
        attributes[conventions.DIMENSIONS] = dimensions
    if encoding := text(request.params.get("encoding_format")):
        attributes[conventions.ENCODING_FORMATS] = (encoding,)
    return attributes


def read_chunks(chunks: Sequence[Any], headers: Mapping[str, str] | None) -> Answer:
    """Nothing: embeddings are not streamed."""
    return Answer()


def read_response(response: Any, headers: Mapping[str, str] | None) -> Answer:
    """Model and prompt tokens, who answered and the price."""
    usage = get(response, "usage")
    return Answer(
        id=text(get(response, "id")),  # of other engines; OpenAI gives none
        model=text(get(response, "model")),
        usage=Usage(input_tokens=count(get(usage, "prompt_tokens"))),
        timings=read_timings(extras(response), fields(usage), headers),
        hop=read_body(fields(response), usage),
        failed=failure_in(response),
    )


EMBEDDINGS = Operation(
    name="embeddings",
    path="/embeddings",
    read_request=read_request,
    request_attributes=request_attributes,
    classify_chunk=lambda chunk: NOTHING,
    read_chunks=read_chunks,
    read_response=read_response,
)
