"""Whether a stream's chunks were gathered on their way, or came one by one to a client that did not read.

Both look alike to the application: silence, and then chunks that lie ready. A client that gets no core for 0.2 s (or
whose event loop or lock is taken) finds all of them waiting. The kernel saw the difference: who gathers chunks sends
them in few segments, while an engine sends one for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from llmtrace.diagnosis.symptoms import Symptoms
from llmtrace.phases.observation import READY_GAP_S, Observation

_BESIDE_S: Final = 0.003
"""A first token this soon after the headers lay ready beside them."""
_FEW: Final = 8
"""Chunks beyond those beside the headers, to tell by their segments."""
_SHARE: Final = 0.5
"""Segments by chunks, below which they were gathered. Of 24 chunks from vLLM to a client without a core 24 segments
came; a full segment has room for four to seven chunks."""
UNREAD_S: Final = 0.008
"""Data that had lain in the kernel so long when the headers were read, came before the client looked: two ticks of the
kernel's clock, which has 4 ms on most machines."""


def behind_headers(seen: Observation, gaps: Sequence[int]) -> int:
    """How many chunks came later than the headers and what lay ready beside them."""
    if seen.headers is None or seen.first_token is None or seen.first_token - seen.headers > _BESIDE_S * 1e9:
        return seen.chunks
    beside = next((place for place, gap in enumerate(gaps) if gap > READY_GAP_S * 1e9), len(gaps))
    return max(0, seen.chunks - 1 - beside)


def gathered(symptoms: Symptoms) -> bool | None:
    """Whether the stream's chunks were gathered on their way; None where the kernel told nothing of it."""
    if symptoms.behind_headers >= _FEW:
        return None if symptoms.segments is None else symptoms.segments < _SHARE * symptoms.behind_headers
    return None if symptoms.unread is None else symptoms.unread < UNREAD_S
