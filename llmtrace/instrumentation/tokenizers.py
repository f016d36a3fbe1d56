"""Finds the tokenizer that made a prompt, and whether through a chat template: ``generate`` only sees the ids.

An argument or the streamer may name the tokenizer. Otherwise the last few encodings of this process are searched for
one of the prompt's shape. The span says which of these it was.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Mapping
from typing import Any

from llmtrace.instrumentation.patching import Patches
from llmtrace.observe import internal_errors

_KEPT = 16
_recent: deque[tuple[tuple[int, ...], Any, bool]] = deque(maxlen=_KEPT)
"""Shape of an encoding, weak reference to its tokenizer, and whether a chat template made the text; newest first."""


def patch(patches: Patches) -> None:
    """Watch what ``transformers``' tokenizers encode, now or when they are imported."""

    def hook_tokenizers(module: Any) -> None:
        patches.wrap(module, "PreTrainedTokenizerBase.__call__", _watching(False))
        patches.wrap(module, "PreTrainedTokenizerBase.apply_chat_template", _watching(True))

    patches.when_imported("transformers.tokenization_utils_base", hook_tokenizers)


def _watching(templated: bool) -> Any:
    def hook(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = wrapped(*args, **kwargs)
        try:
            ids = result["input_ids"] if isinstance(result, Mapping) or hasattr(result, "input_ids") else result
            shape = _shape(ids)
            if shape is not None:
                _recent.appendleft((shape, weakref.ref(instance), templated))
        except Exception as error:
            internal_errors.note("watching a tokenizer", error)
        return result

    return hook


def find_tokenizer(arguments: Mapping[str, Any], prompt: Any) -> tuple[Any, bool, str | None]:
    """The tokenizer that made a prompt, whether a chat template was used, and the basis of that knowledge.

    The basis is ``argument``, ``streamer`` or ``shape`` (an encoding of the same shape was made lately); None where no
    tokenizer was found.
    """
    shape = _shape(prompt)
    match = next(
        ((reference(), chat) for encoded_shape, reference, chat in _recent if encoded_shape == shape), (None, False)
    )
    for basis, tokenizer in (
        ("argument", arguments.get("tokenizer")),
        ("streamer", getattr(arguments.get("streamer"), "tokenizer", None)),
    ):
        if tokenizer is not None:
            return tokenizer, match[1] and match[0] is tokenizer, basis
    return (*match, "shape") if match[0] is not None else (None, False, None)


def _shape(ids: Any) -> tuple[int, ...] | None:
    """``(rows, tokens)`` of encoded ids: a tensor, or lists that may still become one; None for anything else."""
    shape = getattr(ids, "shape", None)
    if shape is not None:
        return tuple(int(length) for length in shape) if len(shape) == 2 else None
    if not isinstance(ids, list) or not ids:
        return None
    if isinstance(ids[0], int):
        return (1, len(ids))
    rows = {len(row) for row in ids if isinstance(row, list)}
    return (len(ids), rows.pop()) if len(rows) == 1 else None
