"""The values that one ended call adds to the metrics, and the attribute sets that they are recorded with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from opentelemetry.context import Context

from llmtrace.emit import names
from llmtrace.emit.values import safe_attributes
from llmtrace.observe.answer import Usage

_MOST = 256
"""Attribute sets kept ready for one kind of call: its phases, error types, modalities and causes."""

Pairs = tuple[tuple[str, str | bool], ...]
"""Attributes that can be a key: name and value of each."""


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Measurements:
    """The values that one ended call adds to the metrics. Durations are in seconds."""

    operation: str
    provider: str
    request_model: str | None = None
    response_model: str | None = None
    address: str | None = None
    port: int | None = None
    refinements: Pairs = ()
    """Attributes that the conventions ask for with some providers only."""
    failure: str | None = None
    """``error.type``, None where the call did not fail."""
    duration: float
    time_to_first_chunk: float | None = None
    """From the request to the first chunk of a stream, None where there was none."""
    gaps: Sequence[float] = ()
    """From each chunk to the next one."""
    usage: Usage = field(default_factory=Usage)
    phases: Sequence[tuple[str, str, float]] = ()
    """Name, source and duration of each phase."""
    errors: Sequence[tuple[str, str, float]] = ()
    """Name and source of each phase that the engine told and the estimate was made of too, and how far that is off."""
    objectives: Mapping[str, bool] | None = None
    """Of each objective that could be judged, whether the call met it; None where it has none."""
    charged: Sequence[tuple[str, str, float]] = ()
    """Objective, phase and seconds of what is charged for the missed ones."""
    causes: Sequence[str] = ()
    """The causes that the diagnosis named."""
    context: Context | None = None
    """The context with the call's span, to which exemplars point."""


class AttributeSets:
    """One attribute set, and those with something added to it: each made once, as it can be exported, and recorded with
    as it is.

    Safe in any thread: a set that two threads make at once is the same in both.
    """

    __slots__ = ("_more", "own")

    def __init__(self, own: dict[str, Any]) -> None:
        self.own = safe_attributes(own)
        self._more: dict[Pairs, Mapping[str, Any]] = {}

    def plus(self, *more: tuple[str, str | bool]) -> Mapping[str, Any]:
        """This set with ``more`` attributes."""
        extended = self._more.get(more)
        if extended is None:
            extended = {**self.own, **safe_attributes(dict(more))}
            if len(self._more) < _MOST:
                self._more[more] = extended
        return extended

    def ended(self, failure: str | None) -> Mapping[str, Any]:
        """This set, with ``error.type`` of an operation that failed."""
        return self.own if failure is None else self.plus((names.ERROR_TYPE, failure))


class Kind(NamedTuple):
    """The attributes that calls share whose values go into the same series."""

    operation: str
    provider: str
    request_model: str | None
    response_model: str | None
    address: str | None
    port: int | None
    refinements: Pairs


class Series:
    """The attribute sets of one kind of call."""

    __slots__ = ("base", "counted", "refined")

    def __init__(self, kind: Kind) -> None:
        values = {
            names.OPERATION: kind.operation,
            names.PROVIDER: kind.provider,
            names.REQUEST_MODEL: kind.request_model,
            names.RESPONSE_MODEL: kind.response_model,
            names.SERVER_ADDRESS: kind.address,
            names.SERVER_PORT: kind.port,
        }
        own = {name: value for name, value in values.items() if value is not None}
        self.base = AttributeSets(own)
        self.refined = AttributeSets({**own, **dict(kind.refinements)}) if kind.refinements else self.base
        """With the attributes that only this provider's metrics have."""
        self.counted: set[str] = set()
        """The counters that have a value of this kind of call."""
