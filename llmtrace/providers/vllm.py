"""vLLM in the application's own process: ``LLM`` (a call is a batch) and ``AsyncLLM`` (a call is one request's stream).

Field names: ``vllm.outputs.RequestOutput`` and ``vllm.v1.metrics.stats.RequestStateStats``, whose ``*_ts`` are seconds
on the engine's monotonic clock: of a single request they are its queue, prefill and decode. An engine that logs no
statistics (``LLM``'s default) leaves them out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmtrace import conventions
from llmtrace.observe.answer import Answer, ServerTimings, Usage
from llmtrace.observe.call import NOTHING, OUTPUT
from llmtrace.providers import chat_completions
from llmtrace.providers.declare import Load, Method, Operation, Provider, Request
from llmtrace.providers.messages import chat_input, prompt_input, tool_definitions
from llmtrace.providers.safe import count, get, items, set_finish_reasons, text

_SAMPLING = ("max_tokens", "temperature", "top_p", "frequency_penalty", "presence_penalty", "seed", "stop")
_ROWS, _TOP_K, _KIND, _BATCH = "rows", "top_k", "output_kind", "batch"
_STAMPS = ("queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts")


def read_request(body: Mapping[str, Any]) -> Request:
    """The request in a mapping that ``_arguments`` made; its choices are all sequences that the call makes."""
    return Request(model=body["model"], streaming=body["stream"], params=body, choices=body["n"])


def request_attributes(request: Request) -> dict[str, Any]:
    """The conventions' ``gen_ai.request.*`` attributes, and how many prompts a batch has."""
    attributes = chat_completions.request_attributes(request)
    if top_k := request.params.get(_TOP_K):
        attributes[conventions.TOP_K] = top_k
    if not request.streaming:
        attributes["llmtrace.generate.batch_size"] = request.params[_ROWS]
    return attributes


def classify_chunk(chunk: Any) -> int:
    """``OUTPUT`` where a sequence has tokens, else ``NOTHING``."""
    return OUTPUT if any(get(sequence, "token_ids") for sequence in items(get(chunk, "outputs"))) else NOTHING


def read_chunks(chunks: Sequence[Any], headers: Mapping[str, str] | None) -> Answer:
    """The answer of one request, from its last output; that lacks only the earlier tokens, if deltas were asked for."""
    answer, last = _read(chunks[-1:]), chunks[-1]
    if not get(last, "finished"):  # left early: the engine's statistics go on without the application
        answer.timings = None
    elif len(items(get(last, "outputs"))) == 1:
        counted = count(get(get(last, "metrics"), "num_generation_tokens"))
        answer.usage.output_tokens = counted or answer.usage.output_tokens
    return answer


def read_response(response: Any, headers: Mapping[str, str] | None) -> Answer:
    """The answer of a batch: sums, and each sequence's finish reason in the order of the prompts."""
    return _read(items(response))


def _read(outputs: Sequence[Any]) -> Answer:
    sequences = [sequence for output in outputs for sequence in items(get(output, "outputs"))]
    answer = Answer(
        id=text(get(outputs[0], "request_id")) if len(outputs) == 1 else None,
        usage=Usage(
            input_tokens=_sum(outputs, "prompt_token_ids"),
            output_tokens=_sum(sequences, "token_ids"),
            cached_tokens=_sum(outputs, "num_cached_tokens"),
        ),
        timings=_timings(outputs, alone=len(sequences) == len(outputs)),
    )
    reasons = ((place, text(get(sequence, "finish_reason"))) for place, sequence in enumerate(sequences))
    set_finish_reasons(answer, {place: reason for place, reason in reasons if reason})
    return answer


def _timings(outputs: Sequence[Any], *, alone: bool) -> ServerTimings | None:
    """The engine's phases of all requests together, in seconds; None without statistics, or if a request did not end.

    ``alone``: each request has one sequence. Phases are only told apart where one step of the engine brought every
    request's first token (then the engine stamps them all alike). Otherwise some were decoded while others were
    computing their prompts or waiting: there is the whole, from the first one queued to the last one's end.
    """
    stamps = [[get(get(output, "metrics"), name) for name in _STAMPS] for output in outputs]
    if not stamps or not all(isinstance(stamp, float) and stamp > 0 for row in stamps for stamp in row):
        return None
    queued, scheduled, first, last = zip(*stamps, strict=True)
    whole = ServerTimings("vllm", total=max(last) - min(queued))
    if not alone or max(first) != min(first):
        return whole
    first_scheduled, first = min(scheduled), min(first)
    return replace(
        whole, queue=first_scheduled - min(queued), prefill=first - first_scheduled, decode=max(last) - first
    )


def complete(request: Request, answer: Answer) -> None:
    """Remove the counts and timings of a stream whose last output does not cover all its tokens."""
    kind = request.params[_KIND]
    if not request.streaming or kind == "FINAL_ONLY":
        return
    if request.choices > 1 or (kind == "DELTA" and answer.timings is None):
        answer.usage.output_tokens = None
        answer.timings = None


def input_messages(request: Request) -> Any:
    """Content capture: the prompts, or every conversation's messages one after the other."""
    with_prompts = replace(request, params=request.params.get(_BATCH) or request.params)
    return chat_input(with_prompts) or prompt_input(with_prompts)


def output_messages(answer: Sequence[Any] | Any, streamed: bool) -> Any:
    """Content capture: each sequence's text. Of a stream: joined pieces, or the last where each holds those before."""
    texts: dict[tuple[int, Any], tuple[str, str]] = {}
    for place, output in enumerate(items(answer)):
        for sequence in items(get(output, "outputs")):
            key = (0 if streamed else place, get(sequence, "index"))
            written, before = get(sequence, "text") or "", texts.get(key, ("", ""))[0]
            reason = text(get(sequence, "finish_reason")) or "error"
            texts[key] = (written if written.startswith(before) else before + written, reason)
    return [
        {"role": "assistant", "parts": [{"type": "text", "content": written}], "finish_reason": reason}
        for written, reason in texts.values()
    ]


def _sum(sources: Sequence[Any], field: str) -> int | None:
    """The sum of a field over all ``sources`` (of a list its length); None where one lacks it."""
    values = [get(source, field) for source in sources]
    counts = [len(value) if hasattr(value, "__len__") else count(value) for value in values]
    known = [value for value in counts if value is not None]
    return sum(known) if known and len(known) == len(counts) else None


def _model(engine: Any) -> str | None:
    """The name that the model is served under; for a model in a folder, the folder's name."""
    config = get(engine, "model_config") or get(get(engine, "llm_engine"), "model_config")
    return _shown(text(get(config, "served_model_name")) or text(get(config, "model")))


def _asked(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """The model that an engine was to be made of: ``LLM`` is told its name, ``AsyncLLM`` the engine's whole config."""
    asked = args[0] if args else kwargs.get("model", kwargs.get("vllm_config"))
    return _shown(text(kwargs.get("served_model_name")) or text(asked)) or _model(asked)


def _shown(name: str | None) -> str | None:
    if name and (os.path.isabs(name) or os.path.isdir(name)):
        return os.path.basename(os.path.normpath(name))
    return name


def _arguments(first: str) -> Callable[[Any, tuple[Any, ...], Mapping[str, Any]], Mapping[str, Any]]:
    """A call's arguments as a mapping in OpenAI's shape; ``first``: ``prompt`` of a stream, else of the whole batch."""
    stream, field = first == "prompt", "messages" if first == "messages" else "prompt"

    def body(engine: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        arguments = {**dict(zip((first, "sampling_params"), args, strict=False)), **kwargs}
        prompts, sampling = arguments.get(first), arguments.get("sampling_params")
        rows = items(prompts)
        # One conversation is a list of messages, one prompt may be a list of token ids.
        if stream or not rows or isinstance(rows[0], int) or (field == "messages" and isinstance(rows[0], Mapping)):
            rows = (prompts,)
        if field == "prompt":
            contents = rows = [row if isinstance(row, str) else get(row, "prompt") for row in rows]
        else:
            contents = [message for row in rows for message in items(row)]
        per_prompt = items(sampling)
        sequences = [getattr(one, "n", None) or 1 for one in per_prompt] or [getattr(sampling, "n", None) or 1] * len(
            rows
        )
        shared_sampling = sampling if not per_prompt else per_prompt[0] if len(per_prompt) == 1 else None
        sampling_values = {name: getattr(shared_sampling, name, None) for name in _SAMPLING}
        return {
            # Sampling parameters always have every field: a penalty of zero is none.
            **{name: value for name, value in sampling_values.items() if value or name in ("temperature", "seed")},
            "model": _model(engine),
            "stream": stream,
            "n": sum(sequences),
            **({field: rows[0]} if len(rows) == 1 else {_BATCH: {field: contents}}),
            "tools": arguments.get("tools"),
            _ROWS: len(rows),
            _TOP_K: count(getattr(shared_sampling, "top_k", None)),
            _KIND: getattr(getattr(shared_sampling, "output_kind", None), "name", ""),
        }

    return body


TEXT = Operation(
    name="text_completion",
    read_request=read_request,
    request_attributes=request_attributes,
    classify_chunk=classify_chunk,
    read_chunks=read_chunks,
    read_response=read_response,
    complete=complete,
    tool_definitions=tool_definitions,
    input_messages=input_messages,
    output_messages=output_messages,
)
CHAT = replace(TEXT, name="chat")

VLLM = Provider(
    hooks=(
        Method(module="vllm.entrypoints.llm", path="LLM.generate", operation=TEXT, body=_arguments("prompts")),
        Method(module="vllm.entrypoints.llm", path="LLM.chat", operation=CHAT, body=_arguments("messages")),
        Method(module="vllm.v1.engine.async_llm", path="AsyncLLM.generate", operation=TEXT, body=_arguments("prompt")),
    ),
    provider_name=lambda engine, host: "vllm",
    base_url=lambda engine: None,
    in_process=True,
    # What of it is reading, compiling and warming up is told by the engine's own process, in its log alone.
    loads=(
        Load(module="vllm.entrypoints.llm", path="LLM.__init__", name=_model, asked=_asked),
        Load(module="vllm.v1.engine.async_llm", path="AsyncLLM.__init__", name=_model, asked=_asked),
    ),
)
