"""The machines whose server is asked: this processor, and a device of a set speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final

from llmtrace.analyze.breakeven.machine import Machine
from llmtrace.reference.engine import Engine

SET: Final = Machine("set", base=0.030, per_row=0.002, per_context=1e-5, per_prompt=0.0008, per_attention=5e-7)
"""s for a step, a sequence that decodes, a token behind it, a prompt token, and one times those before it."""


@contextmanager
def of_set_speed() -> Generator[None, None, None]:
    """Every step takes what ``SET`` says: the model computes, and the engine waits for the rest of that time."""
    real = Engine.compute

    def compute(engine: Any, mark: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        real(engine, mark)
        time.sleep(max(0.0, begun + _seconds(engine) - time.perf_counter()))
        return mark()

    Engine.compute = compute
    try:
        yield
    finally:
        Engine.compute = real


def _seconds(engine: Any) -> float:
    rows = 0
    context = prompt = attention = 0.0
    for each in engine._ios.requests_in_batch:
        new = each.query_length
        before = each.state.position_offset - new
        if before < len(each.state.initial_tokens):
            prompt += new
            attention += new * (before + new / 2)
        else:
            rows += 1
            context += before
    return SET.compute(rows, context, prompt, attention)
