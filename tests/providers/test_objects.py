"""What an application can see of a client's objects besides their contents: the same with llmtrace as without.

Only the ``extensions`` of HTTP requests and responses, which are there for hooks, know of it.
"""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import Tracing
from tests.support.by_funnel import Stainless
from tests.support.by_method import Driver
from tests.support.replay import Replay, paced
from tests.support.rich import DRIVERS

CASES = [pytest.param(driver, kind, id=f"{driver.__name__}-{kind}") for driver in DRIVERS for kind in driver.kinds]


class Symptoms(dict[str, str]):
    """What can be seen, by name; what raises is seen as the exception it raises."""

    def note(self, name: str, look: Callable[[], Any]) -> None:
        try:
            found = repr(look())
        except Exception as error:
            found = f"{type(error).__qualname__}: {error}"
        self[name] = re.sub(r"0x[0-9a-f]+", "0x", found)


def symptoms_of(driver: Driver, replay: Replay) -> Symptoms:
    facts = Symptoms()
    replay.serve(driver.whole())
    answer = driver.run(driver.ask, False)
    facts.note("answer", lambda: (answer, sorted(vars(answer))))
    facts.note("answer pickled", lambda: pickle.loads(pickle.dumps(answer)))
    facts.note("answer copied", lambda: copy.deepcopy(answer))
    if isinstance(driver, Stainless):
        raw = driver.run(driver.ask, False, "with_raw_response")
        sent, got = raw.http_request, raw.http_response
        facts.note("raw", lambda: (raw, sorted(vars(raw)), raw.headers, raw.content, raw.url, raw.retries_taken))
        facts.note("request", lambda: (sent, sent.headers, sorted(vars(sent))))
        facts.note("response", lambda: (got, got.headers, sorted(vars(got)), got.is_closed))
        facts.note("response pickled", lambda: pickle.loads(pickle.dumps(got)).content)
    replay.serve(driver.script(paced(driver.events())))
    stream = driver.run(driver.ask, True)
    facts.note("stream", lambda: (stream, type(stream), sorted(getattr(stream, "__dict__", ()))))
    driver.drain(stream)
    facts.note("stream read", lambda: (stream, sorted(getattr(stream, "__dict__", ()))))
    facts.note("stream pickled", lambda: type(pickle.loads(pickle.dumps(stream))))
    replay.serve(driver.refusal(429))
    with pytest.raises(Exception) as caught:
        driver.run(driver.ask, False)
    error = caught.value
    facts.note("error", lambda: (error, error.args, sorted(vars(error))))
    facts.note("error pickled", lambda: pickle.loads(pickle.dumps(error)))
    facts.note("error's response", lambda: (error.response, error.response.headers, error.response.content))
    return facts


@pytest.mark.parametrize(("driver", "kind"), CASES)
def test_objects(driver: type[Driver], kind: str, replay: Replay, tracing: Tracing) -> None:
    opened = driver(kind, replay.url)
    try:
        bare = symptoms_of(opened, replay)
        tracing.on(opened.name, propagate="never")
        seen = symptoms_of(opened, replay)
    finally:
        opened.shut()
    assert seen == bare
