"""Sends requests at set moments to a server, and prints what each took.

A process of its own, of the standard library only, so that the server shares no interpreter with it.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from llmtrace.reference.served_client import ask


def main() -> None:
    """Send what stands on stdin; print s late, to the first token and to the last one, for each."""
    address, requests = sys.argv[1], json.load(sys.stdin)
    results: list[list[float]] = [[] for _ in requests]
    begin = time.perf_counter() + 0.5

    def run(number: int) -> None:
        at, body = requests[number]
        moments: list[float] = []
        sent = time.perf_counter()
        ask(address, body, moments)
        results[number] = [sent - begin - at, moments[0], moments[-1]]

    threads: list[threading.Thread] = []
    for number, (at, _) in enumerate(requests):
        time.sleep(max(0.0, begin + at - time.perf_counter()))
        threads.append(threading.Thread(target=run, args=(number,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
