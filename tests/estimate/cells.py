"""``python -m tests.estimate.cells``: errors and coverage of the estimate, cell by cell, offline and within a minute.

A quick look while working on the estimate; ``make accuracy`` measures real servers. Errors are means over the mean
time to first token (of a whole answer, over its mean total). ``self`` is the median error over the phase itself, and
``w/e`` the mean half width of the interval over the mean error. vLLM's own queue leaves out the wait for the running
step: there ``queue`` is without it on both sides.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from llmtrace.phases.model import Estimate
from tests.estimate.test_shared_engines import ENGINE, Chat, Seen, follow, plain, recorded, simulated, with_images
from tests.estimate.test_whole import play
from tests.support.engine_sim import poisson

WARM, WARM_WHOLE = 30, 60
RECORDED = (
    "alone_load70", "share30_load60", "share30_load90", "vllm_alone_load60", "vllm_share30_load60",
    "vllm_share30_load90", "vllm_share05_load70", "vllm_chat_alone_load60", "vllm_chat_share30_load60",
)  # fmt: skip


@dataclass
class Part:
    """One phase of one call: what was said of it, and the truth. Seconds."""

    said: float
    low: float
    high: float
    true: float


def line(name: str, total: float, calls: int, phases: dict[str, Sequence[Part]]) -> str:
    """The figures of one cell. ``total``: mean of what errors are shares of, s."""
    split = max(map(len, phases.values())) / calls
    told = [f"{name:26} {total:6.3f} s  unsplit {1 - split:4.0%}"]
    for phase, parts in phases.items():
        if not parts:
            continue
        off = [abs(part.said - part.true) for part in parts]
        mean = statistics.fmean(off)
        itself = statistics.median(o / max(part.true, 1e-4) for o, part in zip(off, parts, strict=True))
        inside = statistics.fmean(
            part.said - part.low - 1e-3 <= part.true <= part.said + part.high + 1e-3 for part in parts
        )
        width = statistics.fmean((part.low + part.high) / 2 for part in parts) / max(mean, 1e-9)
        own = "" if phase == "queue" else f" self {itself:4.0%}"
        told.append(f"{phase} {mean / total:5.1%}{own} covered {inside:4.0%} w/e {width:3.1f}")
    return "  ".join(told)


def streams(name: str, calls: Sequence[Seen], whole_queue: bool = True) -> str:
    """A cell of streamed calls."""
    late = list(zip(calls, follow(calls), strict=True))[WARM:]
    queue: list[Part] = []
    prefill: list[Part] = []
    for call, one in late:
        if one is None:
            continue
        said = one.queue + (one.step_wait if whole_queue else 0.0)
        low, high = one.queue_low or 0.0, one.queue_high or 0.0
        if not whole_queue:
            low = high = one.queue_uncertainty
        queue.append(Part(said, low, high, call.queue))
        prefill.append(Part(one.prefill, one.prefill_low or 0.0, one.prefill_high or 0.0, call.prefill))
    total = statistics.fmean(call.first - call.sent for call, _ in late)
    return line(name, total, len(late), {"queue": queue, "prefill": prefill})


def whole(name: str, seed: int, rate: float, streamed: int = 0) -> str:
    """A cell of whole answers of a client that is alone."""
    calls = poisson(seed, 220, rate, longest=1800, outputs=(8, 16, 32, 64))
    ENGINE.run(calls, seed)
    late = list(zip(calls, play(calls, streamed), strict=True))[WARM_WHOLE:]
    queue: list[Part] = []
    prefill: list[Part] = []
    decode: list[Part] = []
    for call, one in late:
        if isinstance(one, Estimate) and one.decode is not None:
            low, high = one.queue_low or 0.0, one.queue_high or 0.0
            queue.append(Part(one.queue + one.step_wait, low, high, call.queue + call.noticed - call.arrived))
            prefill.append(Part(one.prefill, one.prefill_low or 0.0, one.prefill_high or 0.0, call.prefill))
            decode.append(Part(one.decode, one.decode_low, one.decode_high, call.end - call.first))
    total = statistics.fmean(call.end - call.sent for call, _ in late)
    return line(name, total, len(late), {"queue": queue, "prefill": prefill, "decode": decode})


def without_usage(calls: Sequence[Seen], seed: int) -> list[Seen]:
    """The same with tokens reckoned from characters, which spread by 10 % from prompt to prompt."""
    draw = random.Random(seed)
    return [replace(call, uncached=max(1, round(0.8 * call.uncached * math.exp(draw.gauss(0, 0.1))))) for call in calls]


def cells(seed: int) -> Iterator[str]:
    for name in RECORDED:
        yield streams(name, recorded(name), not name.startswith("vllm"))
        yield streams("  without usage", without_usage(recorded(name), seed), not name.startswith("vllm"))
    for tenants, rate in ((1, 6.0), (1, 12.0), (5, 6.0), (5, 12.0), (20, 6.0), (20, 12.0)):
        yield streams(f"{tenants} tenants, {rate:g}/s", simulated(seed, 180, rate, plain, tenants))
    for tenants in (1, 5):
        yield streams(f"chat, {tenants} tenants", simulated(seed, 180, 10.0, Chat(), tenants))
        yield streams(f"images, {tenants} tenants", simulated(seed, 180, 4.0, with_images, tenants))
    yield whole("whole, 4/s", seed, 4.0)
    yield whole("whole, 9/s", seed, 9.0)
    yield whole("whole after 50 streams, 9/s", seed, 9.0, 50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.randrange(10_000), help="default: drawn, and printed")
    seed: int = parser.parse_args().seed
    print(f"seed {seed}")
    for text in cells(seed):
        print(text, flush=True)


if __name__ == "__main__":
    main()
