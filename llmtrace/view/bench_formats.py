"""The weight formats of a run of `llmtrace bench` side by side: speed, memory, energy, and what the answers lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["side_by_side"]


def side_by_side(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]], str]:
    """Heads, a row per format that was measured, and a sentence on what the figures are of; no rows for none."""
    formats = {name: each for name, each in results["formats"].items() if each.get("prefill") or each.get("decode")}
    rows: list[list[str]] = []
    first = next(iter(formats.values()), {})
    prefill, decode = (min(first.get(kind, ()), key=_size, default=None) for kind in ("prefill", "decode"))
    energy = any("energy" in each for each in formats.values())
    peak = any("peak_bytes" in each for each in formats.values())
    for name, each in formats.items():
        against, spent = each.get("against"), each.get("energy")
        rows.append(
            [
                name,
                _speed(each.get("prefill", ()), prefill),
                _speed(each.get("decode", ()), decode),
                f"{each['weight_bytes'] / 1e6:.1f}",
                *([f"{each['peak_bytes'] / 1e6:.0f}" if "peak_bytes" in each else "-"] if peak else []),
                *([f"{spent['joules_per_token']:.3g}" if spent else "-"] if energy else []),
                f"{against['top1']:.1%}" if against else "-",
                f"{against['kl_nats']:.2g}" if against else "-",
            ]
        )
    heads = ["format", "prefill tokens/s", "decode tokens/s", "weights MB", *(["peak MB"] if peak else [])]
    heads += [*(["J per token"] if energy else []), "same token", "KL nats"]
    words: list[str] = []
    if prefill and decode:
        words.append(
            f"Prefill of {prefill['tokens']} tokens; decode of batch {decode['batch']}, context {decode['context']}."
        )
    if first.get("against") and "text" in results:
        words.append(f"Same token and KL: against {first['against']['format']}, on {results['text']}.")
    if "energy" in results:
        words.append(f"Energy: {results['energy']}.")
    return heads, rows, " ".join(words)


def _size(row: Mapping[str, Any]) -> tuple[int, int]:
    return row.get("batch", 0), row.get("context", row.get("tokens", 0))


def _speed(rows: Any, like: Mapping[str, Any] | None) -> str:
    """The speed of the same work, where it was measured."""
    speeds = [row["tokens_per_second"] for row in rows if like is not None and _size(row) == _size(like)]
    return f"{speeds[0]:.0f}" if speeds else "-"
