"""Make a tiny Llama that any engine loads, without a download: weights, tokenizer, chat template.

usage: tiny_model.py OUT_DIR      (needs torch and transformers: run it with the project's own interpreter)

The weights are fitted for a few seconds to a handful of sentences. A model left random emits bytes that are no whole
characters; engines hold those back until they are, and the times of the chunks then say nothing about the tokens.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LINES = (
    "A queue forms where requests arrive faster than slots come free.",
    "The prompt is read once, in parallel, before the first word.",
    "Every later word costs one more step through all the layers.",
    "A prefix seen before need not be read again.",
    "Measure first, then say which part was slow.",
)
MARKS = ("<|begin|>", "<|end|>", "<|turn|>")
TEMPLATE = (
    "{% for message in messages %}<|turn|>{{ message['role'] }}: {{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant: {% endif %}"
)
POSITIONS = 4096


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of 512 entries: any text is in its alphabet."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=512, special_tokens=list(MARKS), initial_alphabet=alphabet)
    bpe.train_from_iterator([*LINES, "system: user: assistant: "] * 8, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=MARKS[0],
        eos_token=MARKS[1],
        pad_token=MARKS[1],
        additional_special_tokens=[MARKS[2]],
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Four layers of width 256, in float32."""
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).float()


def fit(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, steps: int = 60) -> float:
    """Teach ``model`` to recite, so that greedy answers are long runs of whole words. Returns the last loss."""
    rows: list[list[int]] = []
    for turn in range(15):
        start = turn % len(LINES)
        recital = " ".join((LINES[start:] + LINES[:start]) * 4)
        asked = [{"role": "user", "content": LINES[start]}]
        prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        rows.append(tokenizer(f"{prompt}{recital}")["input_ids"])
    width = min(192, *map(len, rows))
    batch = torch.tensor([row[:width] for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    loss = 0.0
    for _ in range(steps):
        step = model(input_ids=batch, labels=batch).loss
        step.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss = step.item()
    return loss


def main() -> None:
    """Write the model to the folder named on the command line."""
    torch.set_num_threads(1)  # on a busy machine two threads mostly wait for each other
    out = Path(sys.argv[1])
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    print(f"loss {fit(model, tokenizer):.3f}")
    model.eval()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "chat_template.jinja").write_text(TEMPLATE)


if __name__ == "__main__":
    main()
