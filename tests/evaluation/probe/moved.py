"""``python -m tests.evaluation.probe.moved``: whether ``llmtrace probe --watch`` notices a server that moves away.

The reference server behind a link whose delay changes after some calm rounds. Linux, as root.
"""

from __future__ import annotations

import argparse

from llmtrace.probe import watching
from llmtrace.probe.clients import open_client
from llmtrace.probe.maths.drift import LEARNED
from llmtrace.probe.prompts import Prompts
from llmtrace.probe.session import Purse, Session
from llmtrace.probe.tracing import Tracing
from llmtrace.reference.process import ServerProcess
from tests.evaluation.probe.link import FAR, Link, link

MOVES = ((0.020, 0.030), (0.020, 0.090), (0.090, 0.020))
"""Round trips before and after, s: the next region, over an ocean, and back."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=4, help="of each move")
    parser.add_argument("--calm", type=int, default=12, help="rounds behind those that are only learned from")
    parser.add_argument("--after", type=int, default=10, help="rounds within which the move is to be told")
    chosen = parser.parse_args()
    with link() as made:
        with made.inside(1):
            server = ServerProcess(device="cpu", host="0.0.0.0", faults=False, timeout=900).start()
        try:
            port = server.root_url.rpartition(":")[2]
            with made.inside(0):
                for before, after in MOVES:
                    for _ in range(chosen.times):
                        made.delay = before
                        print(_watched(made, f"http://{FAR}:{port}/v1", after, chosen.calm, chosen.after), flush=True)
        finally:
            server.stop()


def _watched(made: Link, url: str, after: float, calm: int, later: int) -> str:
    """What was told before the move and after it, in a line."""
    client = open_client("openai", url, None)
    tracing = Tracing("openai", None, None)
    one = watching.Watched(Session(client, Prompts(), Purse(), watching.LONG), tracing)
    false: list[str] = []
    told: list[str] = []
    before = made.delay
    try:
        for number in range(LEARNED + calm + later):
            if number == LEARNED + calm:
                made.delay = after
            _, changes = one.round()
            moved = number - LEARNED - calm + 1
            if moved <= 0:
                false += changes
            else:
                told += (f"{kind} after {moved}: {watching.told(kind, change)}" for kind, change in changes.items())
    finally:
        tracing.close()
        client.close()
    return (
        f"{before * 1e3:.0f} to {after * 1e3:.0f} ms: {calm} calm rounds, false {false}; {'; '.join(told) or 'nothing'}"
    )


if __name__ == "__main__":
    main()
