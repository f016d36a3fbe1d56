"""Text in pieces: whole characters only, and no piece of a stop string."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmtrace.reference import LoadedModel
from llmtrace.reference.detokenize import Detokenizer, StopFinder

TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\ufffd"), max_size=40)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS)
def test_pieces_add_up_and_hold_no_half_character(small: LoadedModel, text: str) -> None:
    ids = small.tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = Detokenizer(small.tokenizer)
    told = [pieces.push(token) for token in ids]
    assert "".join(told) + pieces.flush() == text
    assert not any("\ufffd" in piece for piece in told)


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
