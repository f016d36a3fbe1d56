"""The load of `make load`, small: every request ends, adds up, and looks alike from both sides."""

from __future__ import annotations

from llmtrace.reference import ServerProcess
from tests.reference.load import play


async def test_no_request_is_lost_and_both_sides_agree() -> None:
    with ServerProcess(device="cpu", max_running=8, max_queue=24, faults=False) as server:
        report = await play(server, streams=24, seconds=5)
        told = "\n".join(report.lines(5))
        assert report.sound, told
        assert report.completed >= 24, told
        assert max(report.batch) > 4, told
        # Half a second is far more than the way takes, but this machine may be busy.
        assert sorted(report.first_late)[len(report.first_late) // 2] < 0.5, told
        assert sorted(report.last_late)[len(report.last_late) // 2] < 0.5, told
        assert server.metric("num_requests_running") + server.metric("num_requests_waiting") == 0
