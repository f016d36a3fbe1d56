"""The load of `make load`, small: every request ends, adds up, and looks alike from both sides."""

from __future__ import annotations

from statistics import median

from llmtrace.reference import ServerProcess
from tests.reference.load import play


async def test_no_request_is_lost_and_both_sides_agree() -> None:
    with ServerProcess(device="cpu", max_running=8, max_queue=24, faults=False) as server:
        report = await play(server, streams=24, seconds=3)
        told = "\n".join(report.lines(3))
        assert report.sound, told
        assert report.completed >= 24, told
        assert max(report.batch) > 4, told
        # The way from the server's making a token to the client's seeing it is a small part of a request's time,
        # whatever else the machine does.
        for late in (report.first_late, report.last_late):
            assert median(late) < 0.2 * median(report.took), told
        assert server.metric("num_requests_running") + server.metric("num_requests_waiting") == 0
