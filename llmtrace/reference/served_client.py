"""The client of `served`: asks a reference server, and prints when each token came.

    python -m llmtrace.reference.served_client HOST:PORT < plan.json

Standard library only, so that it starts at once.
"""

from __future__ import annotations

import http.client
import json
import random
import sys
import threading
import time
from typing import Any


def ask(address: str, body: dict[str, Any], moments: list[float]) -> None:
    """One streamed completion; `moments` gets s from sending to each token. Raises what http.client raises."""
    connection = http.client.HTTPConnection(address, timeout=300)
    text = json.dumps(body)
    begun = time.perf_counter()
    connection.request("POST", "/v1/completions", text, {"content-type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(response.read(300).decode())
    while line := response.readline():
        if line.startswith(b"data: {") and b'"text": ""' not in line and b'"text":""' not in line:
            moments.append(time.perf_counter() - begun)
    connection.close()


def main() -> int:
    """Run the plan, in rounds: rows of tokens per prompt, streams at once, and s of a pause before.

    All rows have their turn in each round, so that what disturbs the machine for a while disturbs them alike.
    """
    address, plan = sys.argv[1], json.load(sys.stdin)
    draw = random.Random(1)
    results: list[list[list[list[float]]]] = [[] for _ in plan["plan"]]
    for _ in range(plan["rounds"]):
        for (prompt, batch, pause), result in zip(plan["plan"], results, strict=True):
            time.sleep(pause)
            streams: list[list[float]] = [[] for _ in range(batch)]
            threads: list[threading.Thread] = []
            for moments in streams:
                body = {
                    "model": plan["model"],
                    "prompt": [draw.randrange(plan["vocabulary"]) for _ in range(prompt)],
                    "max_tokens": plan["tokens"],
                    "stream": True,
                    "ignore_eos": True,
                }
                threads.append(threading.Thread(target=ask, args=(address, body, moments)))
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if not all(streams):
                return 1
            result.append(streams)
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
