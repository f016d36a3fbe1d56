"""A tiny Llama of our own: random weights, its own byte-level BPE, fitted for seconds so that it writes words.

It needs no download. Its answers mean nothing; its work is real: every prompt token is computed, every output token
is a step of its own, and a cached prefix saves what it says it saves. Fitting only serves the stream: a model with
wholly random weights writes broken UTF-8, which any server must hold back, and then chunks no longer follow tokens.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmtrace.reference._errors import RunnerError, missing_extra

__all__ = ["TINY_NAME", "TINY_VERSION", "Progress", "TinySpec", "build_tiny", "cache_root", "quiet", "tiny_path"]

Progress = Callable[[int, int], None]
"""`progress(done, total)`: steps of the fit done so far, and how many there are."""

TINY_NAME = "llmtrace-tiny"
TINY_VERSION = 1
"""Goes up whenever the recipe below changes, so that an older build in the cache is left alone."""

_SPECIALS = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SENTENCES = (
    "A span begins when the request leaves and ends when the last token has come.",
    "The queue is where a request waits while others hold the device.",
    "Prefill reads the whole prompt at once and writes its keys and values.",
    "A prefix that was seen before need not be computed again.",
    "Decode makes one token at a time, each from all that came before.",
    "When two bars look the same, ask which phase grew.",
    "The clock on the device knows best; the client only sees what arrives.",
    "A slow reader is not a slow model.",
    "Every call that was started ends exactly once.",
    "Numbers that nobody measured are left out.",
    "Long prompts cost more, cached prompts cost less, and crowds cost patience.",
    "Under load the first token comes late and the rest come in their own time.",
)
_ASKED = (
    "Hello, how are you today?",
    "Why was this call slow?",
    "Write a short answer.",
    "You are a helpful assistant. Be brief.",
    "Summarise the text below in one line.",
    "What is in the cache right now?",
    "Name three causes and say how you know.",
    "one two three four five six seven eight nine ten",
)


@dataclass(frozen=True)
class TinySpec:
    """Shape and fit of the tiny model. The default takes about 0.2 s for 1,000 prompt tokens on one CPU core."""

    hidden: int = 256
    intermediate: int = 704
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    vocabulary: int = 640
    context: int = 4096
    """Most tokens in one sequence, prompt and output together."""
    frozen_layers: int = 3
    """So many layers from the first keep their random weights: their output is computed once, and the fit is short."""
    embedding_scale: float = 1.0
    """Standard deviation of the embeddings: large against the layers' noise, so that few steps are enough."""
    rows: int = 12
    row_tokens: int = 72
    steps: int = 60
    learning_rate: float = 4e-3
    seed: int = 0


def cache_root() -> Path:
    """The folder of built models: `LLMTRACE_CACHE`, else this user's cache folder."""
    if configured := os.environ.get("LLMTRACE_CACHE"):
        return Path(configured).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "llmtrace"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "llmtrace" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmtrace"


def tiny_path(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder of the built tiny model, whether it is there or not."""
    return Path(cache_dir or cache_root()) / "reference" / f"{TINY_NAME}-{TINY_VERSION}"


def build_tiny(path: Path, *, spec: TinySpec | None = None, progress: Progress | None = None) -> float:
    """Build, fit and save the tiny model at `path`; the folder appears whole or not at all. Returns the last loss."""
    spec = spec or TinySpec()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunnerError(
            f"cannot write the tiny model to {path.parent} ({reason}): set LLMTRACE_CACHE to a folder you can write"
        ) from error
    try:
        loss = _build(scratch, spec, progress)
        # Somebody else may have built the same model meanwhile: then theirs stays.
        with contextlib.suppress(OSError):
            os.replace(scratch, path)
        if not path.is_dir():
            raise RunnerError(f"cannot put the tiny model at {path}: set LLMTRACE_CACHE to a folder you can write")
        return loss
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _build(folder: Path, spec: TinySpec, progress: Progress | None) -> float:
    try:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError as error:
        raise missing_extra(error) from error
    tokenizer = _tokenizer(spec)
    with torch.random.fork_rng(devices=[]), _fit_threads(torch):
        torch.manual_seed(spec.seed)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=spec.hidden,
            intermediate_size=spec.intermediate,
            num_hidden_layers=spec.layers,
            num_attention_heads=spec.heads,
            num_key_value_heads=spec.kv_heads,
            max_position_embeddings=spec.context,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=False,
        )
        model: Any = LlamaForCausalLM(config).float()
        with torch.no_grad():
            model.model.embed_tokens.weight.normal_(0.0, spec.embedding_scale)
        loss = _fit(model, _rows(tokenizer, spec), spec, progress)
    model.eval()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    with quiet():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return loss


@contextlib.contextmanager
def _fit_threads(torch: Any) -> Generator[None, None, None]:
    """Fit on half of the cores: with more, torch's threads spin against whatever else this machine runs."""
    before: int = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def quiet() -> Generator[None, None, None]:
    """Switch transformers' progress bars off, to keep them out of the server's log."""
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def _tokenizer(spec: TinySpec) -> Any:
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
        from transformers import PreTrainedTokenizerFast
    except ImportError as error:
        raise missing_extra(error) from error
    bpe: Any = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=spec.vocabulary,
        special_tokens=_SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([*_SENTENCES, *_ASKED, "user assistant system"] * 8, trainer)
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        additional_special_tokens=_SPECIALS[3:],
        model_max_length=spec.context,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _CHAT_TEMPLATE
    return tokenizer


def _rows(tokenizer: Any, spec: TinySpec) -> tuple[list[list[int]], list[int]]:
    """Conversations to fit on, all of one length, and for each where its answer starts."""
    rows: list[list[int]] = []
    starts: list[int] = []
    for number in range(spec.rows):
        question = _ASKED[number % len(_ASKED)]
        turned = _SENTENCES[number % len(_SENTENCES) :] + _SENTENCES[: number % len(_SENTENCES)]
        head = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        head_ids: list[int] = tokenizer(head)["input_ids"]
        body_ids: list[int] = tokenizer(" ".join(turned * 2))["input_ids"]
        rows.append((head_ids + body_ids)[: spec.row_tokens])
        starts.append(len(head_ids))
    return rows, starts


def _fit(model: Any, data: tuple[list[list[int]], list[int]], spec: TinySpec, progress: Progress | None) -> float:
    """Fit the upper layers and the head on the rows, over the frozen lower layers' output computed once."""
    import torch

    rows, starts = data
    ids = torch.tensor(rows)
    targets = ids[:, 1:].clone()
    for row, start in enumerate(starts):
        targets[row, : start - 1] = -100  # learn to answer, not to ask
    body = model.model
    positions = torch.arange(ids.shape[1]).unsqueeze(0)
    upper = body.layers[spec.frozen_layers :]
    with torch.no_grad():
        hidden = body.embed_tokens(ids)
        rotary = body.rotary_emb(hidden, positions)
        mask = torch.full((ids.shape[1], ids.shape[1]), float("-inf")).triu(1)[None, None]
        for layer in body.layers[: spec.frozen_layers]:
            hidden = _through(layer, hidden, rotary, mask)
    trained = [*upper.parameters(), *body.norm.parameters(), *model.lm_head.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=spec.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=spec.learning_rate, total_steps=spec.steps, pct_start=0.2
    )
    last = float("nan")
    for step in range(spec.steps):
        states = hidden
        for layer in upper:
            states = _through(layer, states, rotary, mask)
        logits = model.lm_head(body.norm(states))[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        last = loss.item()
        if progress is not None:
            progress(step + 1, spec.steps)
    return last


def _through(layer: Any, hidden: Any, rotary: Any, mask: Any) -> Any:
    out = layer(hidden, position_embeddings=rotary, attention_mask=mask)
    return out[0] if isinstance(out, tuple) else out
