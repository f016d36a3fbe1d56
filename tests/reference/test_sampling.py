"""The draw: the right chances, the same numbers for the same seed wherever the row lies, and nothing where greedy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llmtrace.reference.sampling import Row, Sampling, draw, new_seed, packed
from tests.support.late import Late

if TYPE_CHECKING:
    import torch
else:
    torch = Late("torch")


def four_chances() -> torch.Tensor:
    return torch.tensor([0.5, 0.3, 0.15, 0.05])


def drawn(rows: list[Row], chances: torch.Tensor, *, nucleus: bool = True) -> list[int]:
    logits = torch.log(chances)[None].repeat(len(rows), 1)
    return draw(logits, packed(rows), nucleus=nucleus).argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tokens_come_as_often_as_their_chances_say(temperature: float) -> None:
    draws = 20_000
    found = torch.bincount(
        torch.tensor(drawn([Row(temperature, 1.0, 7, at) for at in range(draws)], four_chances())), minlength=4
    )
    wanted = four_chances() ** (1 / temperature)
    wanted = wanted / wanted.sum()
    spread = (wanted * (1 - wanted) / draws).sqrt()
    assert ((found / draws - wanted).abs() < 5 * spread).all()


def test_top_p_keeps_only_the_likeliest() -> None:
    assert set(drawn([Row(1.0, 0.7, 3, at) for at in range(300)], four_chances())) == {0, 1}
    assert set(drawn([Row(1.0, 1e-9, 3, at) for at in range(50)], four_chances())) == {0}
    assert set(drawn([Row(1.0, 1.0, 3, at) for at in range(300)], four_chances())) == {0, 1, 2, 3}


def test_a_row_depends_on_nothing_but_itself() -> None:
    rows = [Row(0.8, 0.9, seed * 2**33 + 5, number) for seed in range(4) for number in range(5)]
    together = drawn(rows, torch.full((600,), 1 / 600))
    assert together == [drawn([row], torch.full((600,), 1 / 600))[0] for row in rows]
    assert len(set(together)) > 15, "and not on too little"


def test_a_greedy_row_among_others_keeps_its_logits() -> None:
    logits = torch.randn(3, 50)
    scores = draw(logits, packed([Row(1.0, 1.0, 1, 0), Row(0.0, 1.0, 1, 0), Row(2.0, 0.5, 1, 0)]))
    assert torch.equal(scores[1], logits[1])
    assert not torch.equal(scores[0], logits[0])


def test_seeds_of_any_size_pass_and_choices_differ() -> None:
    for seed in (0, -1, 2**63 - 1, -(2**63)):
        sampling = Sampling(seed=seed)
        assert new_seed(sampling, 0) != new_seed(sampling, 1)
        drawn([Row(1.0, 1.0, new_seed(sampling, choice), 0) for choice in range(3)], four_chances())
    assert new_seed(Sampling(), 0) != new_seed(Sampling(), 0)


def test_no_noise_is_infinite() -> None:
    """This seed's first number is all ones: an unlikely token would win by it, and a banned one would be no number."""
    row = Row(1.0, 1.0, 3022672847080326280, 0)
    assert drawn([row], torch.tensor([1e-30, 0.5, 0.5])) != [0]
    assert drawn([row], torch.tensor([0.0, 0.5, 0.5])) != [0]


@pytest.mark.parametrize("row", [Row(1e-45, 1.0, 3, 0), Row(1e-9, 0.5, 3, 0), Row(1.0, 1e-60, 3, 0)])
def test_the_smallest_numbers_leave_the_likeliest(row: Row) -> None:
    assert drawn([row] * 20, torch.tensor([0.2, 0.3, 0.5])) == [2] * 20
