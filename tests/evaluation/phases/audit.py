"""Real requests to hosted APIs: their cache hits told from timing alone, and the provider's own time predicted.

Reads the timings of a public audit of prompt caching, where that folder is at hand. A ``cache_hit`` row sent a prompt
whose beginning had been sent before, a ``cache_miss`` row one that had not; whether the provider used its cache, nobody
said. The classifier is told, after it has judged a call, which of the two the client had sent: what any client knows of
itself. It never learns an outcome.
"""

from __future__ import annotations

import csv
import gzip
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmtrace.estimate.hits import Hits
from tests.evaluation.common.quantiles import quantile

CACHING = {
    "deepinfra_Meta-Llama-3.1-8B-Instruct",
    "fireworks_llama-v3p1-8b-instruct",
    "openai_gpt-4o-mini",
    "perplexity_llama-3.1-8b-instruct",
    "azure_text-embedding-3-small",
    "openai_text-embedding-3-small",
}
"""Found to cache prompts by the audit that the timings come from; the others serve as negative controls."""
WARM_UP = 40
"""Calls of each kind before verdicts count."""
FILTER = 3
"""Calls judged together."""
_HISTORY = 200


@dataclass(frozen=True, slots=True)
class Row:
    """One request. Seconds."""

    repeated: bool
    client: float
    server: float | None


@dataclass(frozen=True, slots=True)
class Judged:
    """One file: a provider under one condition."""

    provider: str
    condition: str
    caching: bool
    calls: int
    auc: float
    """Of the client's time alone, repeated against fresh: 0.5 where they do not differ."""
    told: float
    """Share of calls past the warm-up for which a verdict was given at all."""
    single: float
    """Balanced accuracy of verdicts on one call; where none is given, that counts as no hit."""
    filtered: float
    """The same for three calls with one prefix."""
    best: float
    """What the best threshold on the fastest of three would have reached, chosen with hindsight."""
    low: float
    high: float
    """90 % interval of ``filtered`` (Wilson, over groups that do not overlap)."""
    claimed: float
    """Share of all calls claimed as hits, one by one."""
    claimed_filtered: float
    false_claims: float
    """Share of groups of fresh prompts claimed as hits."""
    server: dict[str, float] | None
    """Error of the predicted server time, where the provider tells it."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def read(path: Path) -> list[Row]:
    """The rows of one file in the order of their sending, warm-up requests left out."""
    with gzip.open(path, "rt", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["kind"] in ("cache_hit", "cache_miss")]
    rows.sort(key=lambda row: float(row["sent_unix_s"]))
    return [
        Row(
            repeated=row["kind"] == "cache_hit",
            client=float(row["client_s"]),
            server=float(row["server_s"]) if row["server_s"] else None,
        )
        for row in rows
    ]


def name(path: Path) -> tuple[str, str]:
    """Provider with model, and the condition, off a file's name."""
    words = path.name.split("_")
    share = next(i for i, word in enumerate(words) if word in ("per", "global"))
    scope = "global" if words[share] == "global" else f"per {words[share + 1]}"
    sent = next(word[1:] for word in words if word.startswith("v") and word[1:].isdigit())
    known = next(word[2:].replace("-", ".") for word in words if word.startswith("pf"))
    who = {"per user": "the same user", "per org": "the same organisation", "global": "another organisation"}[scope]
    beginning = "whole prompt" if known == "1" else f"{float(known):.0%} of the prompt"
    return "_".join(words[:share]), f"{beginning} sent {sent}x before by {who}"


def auc(repeated: Sequence[float], fresh: Sequence[float]) -> float:
    """Probability that a repeated call is faster than a fresh one; ties count half."""
    mine, others = np.sort(np.asarray(fresh)), np.asarray(repeated)
    above = len(mine) - np.searchsorted(mine, others, side="right")
    ties = np.searchsorted(mine, others, side="right") - np.searchsorted(mine, others, side="left")
    return float((above + ties / 2).mean() / len(mine))


def wilson(share: float, count: int, z: float = 1.645) -> tuple[float, float]:
    """The 90 % interval of a share of ``count`` (Wilson's score interval)."""
    if not count:
        return 0.0, 1.0
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def judge(path: Path) -> Judged:
    """Play one file through the classifier, each call judged before it is learned from."""
    rows = read(path)
    hits = Hits()
    groups: dict[bool, list[float]] = {True: [], False: []}
    seen: dict[bool, int] = defaultdict(int)
    ones: dict[bool, list[bool]] = {True: [], False: []}
    threes: dict[bool, list[bool]] = {True: [], False: []}
    told = 0
    for row in rows:
        group = groups[row.repeated]
        group.append(row.client)
        if min(seen[True], seen[False]) >= WARM_UP:
            verdict = hits.verdict([row.client])
            told += verdict is not None
            ones[row.repeated].append(verdict is not None and verdict.hit)
            if len(group) == FILTER:
                verdict = hits.verdict(group)
                threes[row.repeated].append(verdict is not None and verdict.hit)
        if len(group) == FILTER:
            group.clear()
        hits.learn(row.client, row.repeated)
        seen[row.repeated] += 1
    provider, condition = name(path)
    filtered, groups_judged = _balanced(threes), len(threes[True]) + len(threes[False])
    low, high = wilson(filtered, groups_judged)
    every, every_three = ones[True] + ones[False], threes[True] + threes[False]
    return Judged(
        provider=provider,
        condition=condition,
        caching=provider in CACHING,
        calls=len(rows),
        auc=auc([row.client for row in rows if row.repeated], [row.client for row in rows if not row.repeated]),
        told=told / max(1, len(every)),
        single=_balanced(ones),
        filtered=filtered,
        best=best_threshold(rows),
        low=low,
        high=high,
        claimed=_share(every),
        claimed_filtered=_share(every_three),
        false_claims=_share(threes[False]),
        server=predict_server(rows),
    )


def best_threshold(rows: Sequence[Row]) -> float:
    """Balanced accuracy of the best single threshold on the fastest of each three calls of a kind, seen afterwards."""
    fastest: dict[bool, np.ndarray] = {}
    for repeated in (True, False):
        times = np.array([row.client for row in rows if row.repeated is repeated])
        fastest[repeated] = np.sort(times[: len(times) // FILTER * FILTER].reshape(-1, FILTER).min(axis=1))
    edges = np.concatenate([fastest[True], fastest[False]])
    caught = np.searchsorted(fastest[True], edges, side="right") / len(fastest[True])
    claimed = np.searchsorted(fastest[False], edges, side="right") / len(fastest[False])
    return float(((caught + 1 - claimed) / 2).max())


def predict_server(rows: Sequence[Row]) -> dict[str, float] | None:
    """The provider's own time of each call from the client's and earlier calls' pairs of both, as one error figure.

    What lies between the two is the network and the provider's front: its median over the calls before, with the 5 %
    and 95 % quantiles as the interval. Against it: no correction at all, and least squares on the same history.
    """
    history: list[tuple[float, float]] = []
    off: dict[str, list[float]] = {"history": [], "client's time": [], "least squares": []}
    inside: list[bool] = []
    truth: list[float] = []
    for row in rows:
        if row.server is None:
            continue
        if len(history) >= WARM_UP:
            between = [client - server for client, server in history]
            middle, low, high = (quantile(between, rank) for rank in (0.5, 0.05, 0.95))
            said = max(0.0, row.client - middle)
            slope, fixed = np.polyfit(*zip(*history, strict=True), 1)
            off["history"].append(abs(said - row.server))
            off["client's time"].append(abs(row.client - row.server))
            off["least squares"].append(abs(float(slope) * row.client + float(fixed) - row.server))
            inside.append(row.client - high <= row.server <= row.client - low)
            truth.append(row.server)
        history.append((row.client, row.server))
        del history[:-_HISTORY]
    if not truth:
        return None
    average = sum(truth) / len(truth)
    found = {method: sum(values) / len(values) / average for method, values in off.items()}
    return found | {
        "median": quantile(off["history"], 0.5),
        "p90": quantile(off["history"], 0.9),
        "coverage": _share(inside),
        "truth": average,
    }


def _share(claims: Sequence[bool]) -> float:
    return sum(claims) / len(claims) if claims else 0.0


def _balanced(claims: dict[bool, list[bool]]) -> float:
    return (_share(claims[True]) + 1 - _share(claims[False])) / 2
