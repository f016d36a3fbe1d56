"""What serving adds to the runner's own time, for `llmtrace bench`: the same model behind the real server and a socket.

The server's thread and the model's share a process, as in `llmtrace serve`; the client is a process of its own
(`served_client`). A model without a tokenizer gets a stand-in: prompts are token ids, and each token has a word.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

from llmtrace import interpreter, listening
from llmtrace.reference._errors import RunnerError
from llmtrace.reference.model import LoadedModel
from llmtrace.reference.prefix_cache import DEFAULT_BLOCK
from llmtrace.reference.runner import DEFAULT_BUDGET, DEFAULT_CHUNK, DEFAULT_RUNNING

__all__ = ["measure_served", "serving"]

SHORT, TOKENS, ROUNDS = 16, 33, 4
"""Tokens of a short prompt and of an answer, and how often each is asked."""
LENGTHS = 4
"""Prompts of so many lengths are asked alone, each as many times as long as the one before."""
PAUSE_S = 0.3
"""How long the server has nothing to do before some requests: the first one after a pause takes longer."""
_PATIENCE_S = 300
_ANSWERED_WITHIN_S = 1800


class _Words:
    """A tokenizer that gives each token a word."""

    def decode(self, ids: Sequence[int], **options: Any) -> str:
        return " token" * len(ids)

    def get_vocab(self) -> dict[str, int]:
        return {"token": 0}


def measure_served(loaded: LoadedModel, long: int, slots: int = DEFAULT_RUNNING) -> dict[str, Any]:
    """Time to the first token and between tokens, s, as a client has them: alone, after a pause, with others at once.

    `long`: tokens of the longest prompt. Raises `RunnerError` where the server does not come up or a call fails.
    """
    prompts = sorted({round(SHORT * (long / SHORT) ** (number / (LENGTHS - 1))) for number in range(LENGTHS)})
    crowds = sorted({crowd for crowd in (2, slots // 2, slots) if 1 < crowd <= slots})
    plan = [(prompt, 1, 0.0) for prompt in prompts]
    middle = prompts[len(prompts) // 2]
    plan += [(middle, 1, PAUSE_S), *((SHORT, crowd, 0.0) for crowd in crowds)]
    plan += [(middle, crowd, 0.0) for crowd in crowds[-1:]]
    rows: list[dict[str, Any]] = []
    with serving(loaded, slots, long) as address:
        asked = json.dumps(
            {"model": loaded.name, "vocabulary": loaded.vocabulary, "tokens": TOKENS, "plan": plan, "rounds": ROUNDS}
        )
        try:
            done = subprocess.run(
                [sys.executable, "-m", "llmtrace.reference.served_client", address],
                input=asked, capture_output=True, text=True, timeout=_ANSWERED_WITHIN_S, check=False,
                env=interpreter.environ(),
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise RunnerError(f"the served model did not answer within {_ANSWERED_WITHIN_S} s") from None
        if done.returncode:
            raise RunnerError(f"the client of the served model failed: {done.stderr.strip()[-200:]}")
        for (prompt, batch, pause), rounds in zip(plan, json.loads(done.stdout), strict=True):
            rows.append({"prompt": prompt, "batch": batch, "pause_seconds": pause, **_figures(rounds)})
    return {
        "slots": slots,
        "chunk": DEFAULT_CHUNK,
        "budget": DEFAULT_BUDGET,
        "block": DEFAULT_BLOCK,
        "tokens": TOKENS,
        "rows": rows,
    }


def _figures(rounds: list[list[list[float]]]) -> dict[str, float]:
    """Medians over rounds: the first token of the first to have one, and the mean step in which all of them decode."""
    first: list[float] = []
    steps: list[float] = []
    for streams in rounds[1:] or rounds:  # the first one warms up
        first.append(min(stream[0] for stream in streams))
        begin, end = max(stream[0] for stream in streams), min(stream[-1] for stream in streams)
        for stream in streams:
            inside = [moment for moment in stream if begin <= moment <= end]
            if len(inside) > 1:
                steps.append((inside[-1] - inside[0]) / (len(inside) - 1))
    return {"ttft_seconds": statistics.median(first), "seconds_per_step": statistics.median(steps) if steps else 0.0}


@contextlib.contextmanager
def serving(loaded: LoadedModel, slots: int, long: int) -> Generator[str, None, None]:
    """The address, `host:port`, of a server of this model in this process."""
    import uvicorn

    from llmtrace.reference.app import create_app

    room = (slots + 1) * (long + TOKENS + 2 * DEFAULT_BLOCK)
    app = create_app(replace(loaded, tokenizer=_Words()), max_running=slots, cache_tokens=room)
    with contextlib.closing(listening.bind("127.0.0.1", 0, RunnerError)) as listener:
        port = listener.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            end = time.monotonic() + _PATIENCE_S
            while not server.started:
                if not thread.is_alive() or time.monotonic() > end:
                    raise RunnerError("the server of the measured model did not come up")
                time.sleep(0.01)
            yield f"127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join(10)
