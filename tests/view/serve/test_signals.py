"""Ctrl-C and SIGTERM while the viewer starts, when a library would drop the exception that they raise."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from llmtrace.view.serve.run import holding_signals


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Those of the test's process, put back."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


class Dropping:
    """Raises a signal where Python drops exceptions, as an import from C code does."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)], ids=["INT", "TERM"]
)
def test_a_signal_at_the_start_is_obeyed_once_it_can_be(number: signal.Signals, raised: type[BaseException]) -> None:
    reached: list[str] = []
    with pytest.raises(raised), holding_signals() as obey:
        Dropping(number)
        reached.append("the end of what starts")
        obey()
        reached.append("the server")
    assert reached == ["the end of what starts"]


def test_without_one_the_viewer_goes_on_and_later_ones_count_at_once() -> None:
    with holding_signals() as obey:
        obey()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with pytest.raises(SystemExit) as ended:
            signal.raise_signal(signal.SIGTERM)
        assert ended.value.code == 128 + signal.SIGTERM


def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup has it
    with holding_signals() as obey:
        signal.raise_signal(signal.SIGINT)
        obey()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
