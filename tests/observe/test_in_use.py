"""What waits for the last user of a thing."""

from __future__ import annotations

import os

import pytest

from llmtrace.observe import internal_errors
from llmtrace.observe.in_use import InUse, in_use


class Provider:
    """Anything that can be a key."""


def test_the_last_user_does_what_waits_and_without_users_it_is_done_at_once() -> None:
    under_way, done = InUse(), list[str]()
    under_way.when_free(lambda: done.append("at once"))
    first, second = object(), object()
    under_way.begin(first)
    under_way.begin(second)
    under_way.when_free(lambda: done.append("later"))
    under_way.end(first)
    assert (done, bool(under_way)) == (["at once"], True)
    under_way.end(second)
    under_way.end(second)
    assert (done, bool(under_way)) == (["at once", "later"], False)


def test_one_action_that_fails_keeps_no_other_from_being_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(internal_errors, "counts", type(internal_errors.counts)())
    under_way, user, done = InUse(), object(), list[str]()
    under_way.begin(user)
    under_way.when_free(lambda: 1 // 0)
    under_way.when_free(lambda: done.append("done"))
    under_way.end(user)
    assert done == ["done"]
    assert internal_errors.counts.total() == 1


def test_a_provider_has_one_whoever_asks_and_one_that_is_no_key_has_none() -> None:
    provider = Provider()
    assert in_use(provider) is in_use(provider)
    assert in_use(provider) is not in_use(Provider())
    assert in_use([]) is not in_use([])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_what_is_under_way_stays_the_parents() -> None:
    under_way = in_use(provider := Provider())
    under_way.begin(provider)
    under_way.when_free(lambda: os._exit(3))
    if (child := os.fork()) == 0:
        under_way.end(provider)
        os._exit(4 if under_way else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert under_way
