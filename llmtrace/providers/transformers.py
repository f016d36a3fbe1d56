"""Hugging Face ``transformers``: reads a ``generate`` call's arguments and result. Imports neither it nor torch.

Field names: ``transformers.GenerationConfig`` and ``GenerationMixin.generate``. Tensors are only asked for their shape,
and, once the call is over, for counts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from llmtrace import conventions
from llmtrace.observe.answer import Answer
from llmtrace.observe.call import NOTHING
from llmtrace.providers.declare import Generate, Load, Operation, Provider, Request
from llmtrace.providers.model_identity import model_name, shown_name
from llmtrace.providers.safe import count, number, text

_MODES = {"_beam_search": "beam_search", "_assisted_decoding": "assisted_generation"}


def read_request(arguments: Mapping[str, Any]) -> Request:
    """The request, from ``model`` (a name), ``streamer`` and, once it decodes, ``config``, ``mode`` and ``start``."""
    return Request(model=arguments["model"], streaming=arguments.get("streamer") is not None, params=arguments)


def request_attributes(request: Request) -> dict[str, Any]:
    """The conventions' ``gen_ai.request.*`` attributes, of the generation config in effect."""
    attributes: dict[str, Any] = {}
    config = request.params.get("config")
    if config is None:
        return attributes
    start = request.params.get("start") or 0
    most = count(getattr(config, "max_new_tokens", None))
    if most is None and (length := count(getattr(config, "max_length", None))) is not None:
        most = max(0, length - start)
    if most is not None:
        attributes[conventions.MAX_TOKENS] = most
    if getattr(config, "do_sample", False):
        for name, attribute, accept in (
            ("temperature", conventions.TEMPERATURE, number),
            ("top_p", conventions.TOP_P, number),
            ("top_k", conventions.TOP_K, count),
        ):
            if (value := accept(getattr(config, name, None))) is not None:
                attributes[attribute] = value
    choices = count(getattr(config, "num_return_sequences", None))
    if choices is not None and choices > 1:
        attributes[conventions.CHOICE_COUNT] = choices
    return attributes


def mode(method: str, config: Any) -> str:
    """How tokens are chosen, in ``transformers``' own words, from the decoding method's name and the config."""
    if method == "_sample":
        return "sample" if getattr(config, "do_sample", False) else "greedy_search"
    return _MODES.get(method, method.lstrip("_"))


def prompt(arguments: Mapping[str, Any]) -> Any:
    """The prompt's tensor, ``[rows, tokens]`` or (embeddings) ``[rows, tokens, width]``; None where there is none."""
    for name in ("input_ids", "inputs", "inputs_embeds"):
        tensor = arguments.get(name)
        if tensor is not None and len(getattr(tensor, "shape", ())) >= 2:
            return tensor
    return None


def prompt_tokens(arguments: Mapping[str, Any]) -> int | None:
    """Prompt tokens of all rows, padding left out where the attention mask tells it; None where the
    prompt holds no token ids."""
    tensor = prompt(arguments)
    embedded = tensor is not None and tensor is arguments.get("inputs_embeds")
    if tensor is None or (tensor.is_floating_point() and not embedded):
        return None
    mask = arguments.get("attention_mask")
    if mask is not None and len(getattr(mask, "shape", ())) == 2:
        return int(mask.sum())
    return int(tensor.shape[0]) * int(tensor.shape[1])


def cached_tokens(arguments: Mapping[str, Any]) -> int | None:
    """Tokens per row that the cache which the application passed in already holds."""
    for name in ("past_key_values", "cache"):
        length = getattr(arguments.get(name), "get_seq_length", None)
        if length is not None:
            return int(length())
    return None


def read_rows(result: Any, start: int, config: Any) -> tuple[int, tuple[str, ...]]:
    """Output tokens of all returned rows, each up to its end-of-sequence token, and each row's finish reason.

    ``start``: where in a row the output begins.
    """
    sequences = getattr(result, "sequences", result)
    output = sequences[:, start:]
    width = int(output.shape[1])
    ends = getattr(config, "eos_token_id", None)
    ends = [ends] if isinstance(ends, int) else list(ends or ())
    is_end: Any = None
    for end in ends:
        is_this_end = output == int(end)
        is_end = is_this_end if is_end is None else is_end | is_this_end
    rows = int(output.shape[0])
    if is_end is None or not width:
        lengths, stopped = [width] * rows, [False] * rows
    else:
        stopped = is_end.any(dim=1).tolist()
        end_places = is_end.int().argmax(dim=1).tolist()
        lengths = [place + 1 if ended else width for place, ended in zip(end_places, stopped, strict=True)]
    limit = getattr(config, "max_length", None)
    full = limit is None or int(sequences.shape[1]) >= limit
    reasons = tuple("length" if full and not ended else "stop" for ended in stopped)
    return sum(lengths), reasons


def input_messages(request: Request) -> Any:
    """Content capture: the prompts, decoded by the tokenizer that made them; None where that is not known."""
    return _as_messages(request, prompt(request.params), "user")


def output_messages(answer: Any, streamed: bool) -> Any:
    """Content capture: the output of each row; ``answer`` is (request, result), or None after a call that failed."""
    if answer is None:
        return None
    request, result = answer
    output = getattr(result, "sequences", result)[:, request.params["start"] :]
    return _as_messages(request, output, "assistant")


def _as_messages(request: Request, ids: Any, role: str) -> list[dict[str, Any]] | None:
    tokenizer = request.params.get("tokenizer")
    if tokenizer is None or ids is None or ids.is_floating_point():
        return None
    texts = tokenizer.batch_decode(ids, skip_special_tokens=role == "assistant")
    return [{"role": role, "parts": [{"type": "text", "content": text}]} for text in texts]


def _operation(name: str) -> Operation:
    return Operation(
        name=name,
        read_request=read_request,
        request_attributes=request_attributes,
        classify_chunk=lambda chunk: NOTHING,
        read_chunks=lambda chunks, headers: Answer(),
        read_response=lambda response, headers: Answer(),
        input_messages=input_messages,
        output_messages=output_messages,
    )


def _loaded(result: Any) -> Any:
    """The model in what a load returned: beside its loading info, or inside a pipeline."""
    if isinstance(result, tuple):
        result = result[0]
    return result if hasattr(result, "generate") else getattr(result, "model", result)


def _asked(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """The model that ``from_pretrained`` was to load, by its hub name or the last part of its folder."""
    asked = args[0] if args else kwargs.get("pretrained_model_name_or_path")
    name = text(os.fspath(asked)) if isinstance(asked, (str, os.PathLike)) else None
    return None if name is None else shown_name(name)


def _asked_of_pipeline(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """The model that ``pipeline`` was to load; None where it was given one, or was to pick one."""
    return _asked((args[1] if len(args) > 1 else kwargs.get("model"),), {})


_AUTO: Final = (
    "AutoModel", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForImageTextToText",
    "AutoModelForMultimodalLM", "AutoModelForSpeechSeq2Seq",
)  # fmt: skip
"""The classes that pick a model's own by its config and may give one that generates. Each has a copy of its base's
``from_pretrained``, which reads the config first: a folder that is not there fails in it."""


_load: Final = partial(Load, name=model_name, model=_loaded, asked=_asked, rest="read")

TRANSFORMERS = Provider(
    hooks=(Generate(chat=_operation("chat"), completion=_operation("text_completion")),),
    provider_name=lambda client, host: "transformers",
    base_url=lambda client: None,
    in_process=True,
    loads=(
        _load(
            module="transformers.modeling_utils",
            path="PreTrainedModel.from_pretrained",
            moves=("PreTrainedModel.to", "PreTrainedModel.cuda"),
        ),
        *(_load(module="transformers.models.auto.modeling_auto", path=f"{name}.from_pretrained") for name in _AUTO),
        _load(module="transformers.pipelines", path="pipeline", asked=_asked_of_pipeline),
    ),
)
