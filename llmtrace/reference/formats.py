"""What a weight format changes in the answers: its chances of each next token, against another format's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmtrace.reference.model import LoadedModel

__all__ = ["fixed_text", "lost", "next_chances"]

_JUDGED = 256
"""The most tokens of the text."""
_TEXT = """\
The ferry leaves the island at ten past six, when the light is still grey and the gulls have only begun to quarrel
over the night's catch. Most mornings it carries the same eleven people: two nurses, a teacher, the man who repairs
boilers, and a handful of pupils who sleep against the windows until the harbour wall comes into sight. In winter the
crossing takes twenty-five minutes; with an easterly wind it can take forty, and then the school bus does not wait.

Last year the council asked what a bridge would cost. The answer, 48.3 million, was read out in the hall and followed
by a long silence. "We could buy a ferry every third year for a century," said the teacher, and wrote the sum on the
board to show that it was so. Nobody disputed the arithmetic. Somebody did ask what happens on the days when no boat
can sail, of which there had been nine since the first of January.

def crossings(days, lost=9, per_day=4):
    return (days - lost) * per_day

So the matter was put off until spring, and at ten past six the ropes are thrown off again.
"""


def fixed_text(loaded: LoadedModel, model: str, room: int) -> tuple[list[int], str]:
    """The text on which formats are compared, as at most `room` tokens, and what it is.

    For a folder's model it is a page of English, cut by its own tokenizer; a shape by name has none, and gets random
    tokens, which are as good to random weights.
    """
    import torch

    most = min(_JUDGED, room)
    if (folder := Path(model)).is_dir():
        from transformers import AutoTokenizer

        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            ids = list(tokenizer(_TEXT)["input_ids"])[:most]
        except Exception:  # a folder without a tokenizer, or one that needs what is not installed
            ids = []
        if len(ids) > 1 and max(ids) < loaded.vocabulary:
            return ids, f"{len(ids)} tokens of English"
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, loaded.vocabulary, (most,), generator=generator).tolist(), f"{most} random tokens"


def next_chances(loaded: LoadedModel, tokens: Sequence[int]) -> Any:
    """The logarithms of the next token's chances behind each of these tokens, `[tokens, vocabulary]` on the CPU."""
    import torch

    logits = loaded.model(torch.tensor([list(tokens)], device=loaded.device)).logits[0]
    return torch.log_softmax(logits.float(), dim=-1).cpu()


def lost(reference: Any, chances: Any) -> dict[str, float]:
    """What one format's chances are off another's: how often the likeliest token is the same, and the mean KL, nats."""
    same = (reference.argmax(-1) == chances.argmax(-1)).float().mean()
    kl = (reference.exp() * (reference - chances)).sum(-1).mean()
    return {"top1": float(same), "kl_nats": max(0.0, float(kl))}
