"""How an engine's own timing fields are read: formulas over field names, to seconds.

An engine is an entry of formulas (``engines.py``). Number parsing, unit conversion, sums and differences are done here
once, for all of them. A field that is missing or no number (text, NaN, infinite, negative, more than 1e6 s) is None,
without prejudice to the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from typing import Any, Final, NamedTuple

from llmtrace.fixed import fixed
from llmtrace.observe.answer import ServerTimings

LONGEST: Final = 1e6
"""Seconds. No call takes eleven days: more than that is a wrong unit or a timestamp (llama.cpp once sent 5.7e9 ms)."""
_MOST_TOKENS: Final = 1e9
_INFINITY: Final = float("inf")
_LATEST: Final = 1e11
"""The largest number taken for a point in time, in seconds since any epoch."""


def is_mapping(value: Any) -> bool:
    return type(value) is dict or isinstance(value, Mapping)  # the second alone takes five times as long


def getter(source: Any) -> Callable[[str], Any]:
    """A function that reads a mapping's key or an object's attribute (a pydantic model's extras too); else None."""
    if is_mapping(source):
        return source.get
    return lambda key: getattr(source, key, None)


def step(source: Any, key: str | int) -> Any:
    if isinstance(key, int):
        return source[key] if isinstance(source, list) and len(source) > key else None
    return getter(source)(key)


def number(value: Any) -> float | None:
    """``value`` as a float that is finite and not negative: numbers and numeric text, but no bool."""
    if type(value) is not float:
        if isinstance(value, str):
            if len(value) > 40 or "_" in value:  # float() takes "1_0" for 10
                return None
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        try:
            value = float(value)
        except (ValueError, OverflowError):
            return None
    return value if 0.0 <= value < _INFINITY else None


def _has(get: Callable[[str], Any], keys: Iterable[str], fewest: int) -> bool:
    """Whether there are values for so many of ``keys``."""
    there = 0
    for key in keys:
        if get(key) is not None:
            there += 1
            if there == fewest:
                return True
    return False


class _Term(NamedTuple):
    key: str
    sign: int
    optional: bool
    clock: bool


_Formula = tuple[tuple[_Term, ...], ...]


def _formula(text: str) -> _Formula:
    """Compile ``"a - b? | c"``: the first alternative whose terms are all there and whose result is a duration.

    ``key?`` counts as nothing where it is absent; ``key@`` is a point in time rather than a duration.
    """
    return tuple(
        tuple(
            _Term(key.rstrip("?@"), -1 if sign == "-" else 1, key.endswith("?"), key.endswith("@"))
            for sign, key in re.findall(r"(?:(?<= )([+-]) )?(\S+)", alternative)
        )
        for alternative in text.split(" | ")
        if alternative
    )


def _evaluate(formula: _Formula, get: Callable[[str], Any], per: float) -> float | None:
    longest = LONGEST * per
    for terms in formula:
        total = 0.0
        for key, sign, optional, clock in terms:
            value = get(key)
            if value is None:
                if optional:
                    continue
                break
            duration = number(value)
            # A clock that was never set reads 0 (SGLang): no point in time.
            if duration is None or (not 0.0 < duration < _LATEST if clock else duration > longest):
                break
            total += sign * duration
        else:
            if 0.0 <= total <= longest:
                return total / per
    return None


_BESIDE: Final = ("model_load", "grammar_compile", "grammar_mask")
"""Durations that are no phases, but parts of them."""

S: Final = 1.0
MS: Final = 1e3
NS: Final = 1e9


@fixed()
class Engine:
    """One engine's fields: a formula for each of ServerTimings' durations, over fields of which ``per`` make 1 s."""

    name: str
    per: float
    queue: str = ""
    kv_cache_hit: str = ""
    prefill: str = ""
    decode: str = ""
    ttft: str = ""
    total: str = ""
    cached_tokens: str = ""
    mark: tuple[str, str] | None = None
    """Field and value that tell this engine from others that use the same key."""
    own: tuple[str, ...] = ()
    """Fields that only this engine sends: without any of them, its other fields are somebody else's."""
    all_of: tuple[str, ...] = ()
    """Fields that are its own only where all of them are there."""
    beside: tuple[str, ...] = ()
    """Fields that it sends too, of which nothing is read."""
    fewest: int = 2
    """How many of its fields have to be there: one alone may be anybody's."""
    model_load: str = ""
    """Having the model ready, which is a part of the queue."""
    grammar_compile: str = ""
    """Compiling the answer's grammar, before the first token."""
    grammar_mask: str = ""
    """Working out which tokens may come next, over the whole answer."""
    settle: Callable[[ServerTimings], None] | None = None
    """What is left to judge once the numbers are read: versions that mean different things by one field."""
    on_device: tuple[str, str] | None = None
    """Field and value that say that the accelerator's own clock was read."""
    formulas: tuple[tuple[str, _Formula], ...] = field(init=False)
    known: tuple[str, ...] = field(init=False)
    """Every field that it is known to send."""

    def __post_init__(self) -> None:
        names = ("queue", "kv_cache_hit", "prefill", "decode", "ttft", "total", *_BESIDE)
        compiled = tuple((name, _formula(text)) for name in names if (text := getattr(self, name)))
        object.__setattr__(self, "formulas", compiled)
        object.__setattr__(self, "known", tuple({*self.reads(), *self.marks(), *self.beside}))

    def reads(self) -> set[str]:
        """Every field that the formulas read."""
        keys = {term.key for _, formula in self.formulas for terms in formula for term in terms}
        return keys | {self.cached_tokens} if self.cached_tokens else keys

    def marks(self) -> set[str]:
        """Every field that the engine may be known by."""
        return {*self.own, *self.all_of, *((self.mark[0],) if self.mark else ())}

    def claims(self, source: Any) -> bool:
        """Whether ``source`` bears the marks of this engine."""
        get = getter(source)
        if self.mark and get(self.mark[0]) != self.mark[1]:
            return False
        if self.own and not _has(get, self.own, 1):
            return False
        if self.all_of and not _has(get, self.all_of, len(self.all_of)):
            return False
        return self.fewest < 2 or _has(get, self.known, self.fewest)

    def read(self, source: Any) -> ServerTimings | None:
        """The durations in ``source``, in seconds; None where it has none."""
        if source is None:
            return None
        get = getter(source)
        if not self.claims(source):
            return None
        durations: dict[str, Any] = {}
        for name, formula in self.formulas:
            duration = _evaluate(formula, get, self.per)
            if duration is not None:
                durations[name] = duration
        if durations.keys() <= set(_BESIDE):
            return None
        timings = ServerTimings(self.name, **durations)
        if self.cached_tokens:
            cached = number(get(self.cached_tokens))
            if cached is not None and cached <= _MOST_TOKENS and cached.is_integer():
                timings.cached_tokens = int(cached)
        if self.on_device and get(self.on_device[0]) == self.on_device[1]:
            timings.device = True
        if self.settle is not None:
            self.settle(timings)
        return timings
