"""The span trees of docs/providers are what the code makes, but for their times: ``make trees`` makes them anew."""

from __future__ import annotations

import pytest

from tests.support import trees


def test_every_tree_is_on_a_page() -> None:
    assert set(trees.on_pages()) == set(trees.SCENES)


@pytest.mark.parametrize("name", trees.SCENES)
def test_trees_are_current(name: str) -> None:
    _, tree = trees.on_pages()[name]
    assert trees.shape(trees.made(name, calls=1)) == trees.shape(tree), f"make trees ARGS={name}"
