"""Text in pieces: whole characters only, and no piece of a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from llmtrace.reference import LoadedModel
from llmtrace.reference.detokenize import Detokenizer, StopFinder
from tests.support.late import Late

if TYPE_CHECKING:
    import transformers
else:
    transformers = Late("transformers")

TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\ufffd"), max_size=40)
SPECIAL = ["<s>", "</s>"]


def at_once(tokenizer: Any, ids: Sequence[int]) -> str:
    """What transformers itself makes of the tokens; a typed ``<s>`` is a special token to it, and has no text."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(text=TEXTS | st.lists(TEXTS | st.sampled_from(SPECIAL), max_size=6).map("".join))
@example("<s>")
@example("<s>日 a</s> <s>")
def test_pieces_add_up_and_hold_no_half_character(small: LoadedModel, text: str) -> None:
    ids = small.tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = Detokenizer(small.tokenizer)
    told = [pieces.push(token) for token in ids]
    whole = at_once(small.tokenizer, ids)
    assert "".join(told) + pieces.flush() == whole
    assert not any("\ufffd" in piece for piece in told)
    if not set(ids) & set(small.tokenizer.all_special_ids):
        assert whole == text


@pytest.fixture(scope="module")
def spaced() -> Any:
    """A tokenizer of Llama's kind: a word carries its leading space, which decoding takes from the first one."""
    words = ["<unk>", *SPECIAL, "▁", "▁a", "a", "▁▁", "!"]
    model = models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[], unk_token="<unk>")
    made = Tokenizer(model)
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@settings(max_examples=200, deadline=None)
@given(ids=st.lists(st.integers(0, 7), max_size=8))
@example([4, 1, 4])
def test_a_special_token_costs_its_neighbours_no_space(spaced: Any, ids: list[int]) -> None:
    pieces = Detokenizer(spaced)
    assert "".join(pieces.push(token) for token in ids) + pieces.flush() == at_once(spaced, ids)


def test_a_character_of_several_tokens_comes_with_its_last(small: LoadedModel) -> None:
    ids = small.tokenizer("日", add_special_tokens=False)["input_ids"]
    assert len(ids) == 3
    pieces = Detokenizer(small.tokenizer)
    assert [pieces.push(token) for token in ids] == ["", "", "日"]


def test_broken_bytes_are_not_held_for_ever(small: LoadedModel) -> None:
    lead = small.tokenizer("日", add_special_tokens=False)["input_ids"][0]
    pieces = Detokenizer(small.tokenizer)
    told = [pieces.push(lead) for _ in range(20)]
    assert any(told)
    assert set("".join(told) + pieces.flush()) == {"\ufffd"}


def test_special_tokens_have_no_text(small: LoadedModel) -> None:
    pieces = Detokenizer(small.tokenizer)
    assert pieces.push(small.tokenizer.eos_token_id) == ""


@given(
    parts=st.lists(st.text("abc", max_size=4), max_size=12),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
)
def test_stop_strings_are_found_across_pieces(parts: list[str], stops: list[str]) -> None:
    finder = StopFinder(stops)
    told = ""
    seen = ""
    for part in parts:
        seen += part
        text, met = finder.push(part)
        told += text
        assert met is any(stop in seen for stop in stops)
        if met:
            assert told == seen[: min(seen.index(stop) for stop in stops if stop in seen)]
            return
        assert seen.startswith(told)
    assert told + finder.flush() == "".join(parts)
