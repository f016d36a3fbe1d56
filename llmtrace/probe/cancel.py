"""Closes a stream early, through all that lies between client and model, and looks who went on making it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from llmtrace.emit.names import PROBE_CANCEL
from llmtrace.errors import LlmtraceError
from llmtrace.probe import records
from llmtrace.probe.answers import Answer, Exhausted, Live, Refusal
from llmtrace.probe.clients import shown
from llmtrace.probe.engines import Reading
from llmtrace.probe.maths import cuts
from llmtrace.probe.maths.cuts import STOPPED, UNKNOWN, Cut, Said
from llmtrace.probe.meters import Meter, same_place
from llmtrace.probe.plan import Step
from llmtrace.probe.probing import INTERRUPTED_BY_HAND
from llmtrace.probe.prompts import Prompt, Prompts
from llmtrace.probe.session import Session
from llmtrace.probe.tracing import Tracing
from llmtrace.providers import gateways

CANCEL: Final = "cancel"
CLOSED_AFTER: Final = 10
"""Chunks with output."""
SHORT_CALLS, LONG_CALLS = 3, 2
_SHORT = 40
"""Tokens of each prompt."""
_IDLE_READINGS, _IDLE_APART_S = 6, 0.4
_POLL_S = 0.1
_LONGER = 1.5
"""Times as long as the whole answer took, and ``_MORE_S``: by then the closed one has ended too."""
_MORE_S = 2.0
_REMAINING: Final = (
    # the header, its limit, and s in which so many tokens are gained
    ("x-ratelimit-remaining-tokens", "x-ratelimit-limit-tokens", 60.0),
    ("llm_provider-x-ratelimit-remaining-tokens", "llm_provider-x-ratelimit-limit-tokens", 60.0),
    ("anthropic-ratelimit-output-tokens-remaining", "anthropic-ratelimit-output-tokens-limit", 60.0),
    ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-limit", 60.0),
)


@dataclass
class Proof:
    """What became of the closed stream."""

    base_url: str
    model: str
    asked: int
    """Tokens that the answer was to have."""
    came: int | None = None
    """Tokens that had come when it was closed."""
    said: list[Said] = field(default_factory=list[Said])
    calls: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    usd: float | None = None
    stopped: str = ""
    """Why the rest was not asked; empty where all was."""
    when: float = field(default_factory=time.time)

    def to_json(self) -> dict[str, Any]:
        """As JSON; tokens where nothing else is said."""
        return {
            "base_url": self.base_url,
            "model": self.model,
            "when": self.when,
            "asked": self.asked,
            "came": self.came,
            "hops": [
                {"hop": each.hop, "state": each.state, "low": each.low, "high": each.high, "why": each.why}
                for each in self.said
            ],
            "calls": self.calls,
            "prompt_tokens": self.prompt_tokens,
            "answer_tokens": self.answer_tokens,
            "usd": self.usd,
            "stopped": self.stopped,
        }


def step(prompts: Prompts, least: int, asked: int, kind: str, most: bool = False) -> Step:
    """The calls with about the tokens that they have; ``most``: with the most that they may have."""
    text = prompts.unique(_SHORT).text
    prompt = prompts.most_tokens(text) if most else prompts.tokens(text)
    calls, answers = SHORT_CALLS + LONG_CALLS, SHORT_CALLS * least + LONG_CALLS * asked
    prompt_tokens = calls * prompt
    if kind == "openai":  # a stored response, and a call that goes on from it
        calls, answers = calls + 2, answers + asked + records.RESPONSE_LEAST
        prompt_tokens += 3 * prompt + asked
    return Step(CANCEL, calls, prompt_tokens, answers)


def prove(
    session: Session, tracing: Tracing, asked: int, meter: Meter | None, unread: str, tell: Callable[[str], object]
) -> Proof:
    """Close a stream and find out. ``unread``: why there is no meter; ``tell`` is told what is going on.

    Raises:
        Refusal: the first calls were not answered.
        LlmtraceError: the model's answers are too short for this.
    """
    proof = Proof(shown(session.client.base_url), session.client.model, asked)
    try:
        with tracing.step(CANCEL, learns=False) as span:
            try:
                _Trial(session, proof, meter, unread, tell).run()
            finally:
                _name_the_rest(session, proof)
                span.set_attribute(PROBE_CANCEL, [f"{each.hop}: {answer(each)}" for each in proof.said])
    except Exhausted:
        proof.stopped = "the next call might have passed the budget"
    except Refusal as refusal:
        if proof.came is None:
            raise
        proof.stopped = str(refusal)
    except KeyboardInterrupt:
        proof.stopped = INTERRUPTED_BY_HAND
    proof.calls, proof.prompt_tokens = session.calls, session.prompt_tokens
    proof.answer_tokens = session.answer_tokens
    proof.usd = session.purse.spent if session.purse.price is not None else None
    return proof


def _name_the_rest(session: Session, proof: Proof) -> None:
    """Say of the hops that were to be looked at after the close, and were not, that they cannot be told."""
    if proof.came is None:
        return
    hops = ["engine", "rate limit", *(["stored response"] if session.client.kind == "openai" else [])]
    for hop in hops:
        if all(each.hop != hop for each in proof.said):
            proof.said.append(Said(hop, UNKNOWN, why="it ended before this was looked at"))


def answer(said: Said) -> str:
    """What a hop did, in words."""
    if said.state == UNKNOWN:
        return "cannot be told"
    if said.low is None:
        return "passed the close on"
    tokens = f"{said.low:,}" if said.low == said.high else f"{said.low:,} to {said.high:,}"
    return f"{'stopped after' if said.state == STOPPED else 'ran on to'} {tokens} tokens"


class _Trial:
    """One run: the calls in their order, and what each of them shows."""

    def __init__(
        self, session: Session, proof: Proof, meter: Meter | None, unread: str, tell: Callable[[str], object]
    ) -> None:
        self.session, self.proof, self.meter, self.unread, self.tell = session, proof, meter, unread, tell

    def run(self) -> None:
        ask, unique = self.session.ask, self.session.prompts.unique
        short = [unique(_SHORT) for _ in range(SHORT_CALLS)]
        long = [unique(_SHORT) for _ in range(LONG_CALLS + 1)]
        self.tell("short call")
        first = ask(short[0])
        self._settled()
        idle = self._idle()
        self.tell("whole answer")
        whole = ask(long[0], self.proof.asked)
        settled = self._settled()
        self.tell("short call")
        middle = ask(short[1])
        before = self._settled()
        self.tell("closing a stream")
        cutting = ask(long[1], self.proof.asked, Live(most=CLOSED_AFTER))
        cut = _cut(whole, cutting)
        self.proof.came = cut.came
        self.tell("looking who goes on")
        watched = self._followed(whole, cutting)
        self._hops(cutting, idle, (idle[-1], settled) if idle and settled else None, before, watched, cut)
        self.tell("short call")
        last = ask(short[2])
        self._limits(first, whole, middle, cutting, last, cut)
        self._bill(cutting, cut)
        self._stored(long[2], short[2], whole, cut)

    # the engine

    def _idle(self) -> list[Reading]:
        self.tell("watching the idle engine")
        readings: list[Reading] = []
        for i in range(_IDLE_READINGS if self.meter is not None else 0):
            self.session.sleep(_IDLE_APART_S if i else 0.0)
            reading = self._read()
            if reading is not None:
                readings.append(reading)
        return readings

    def _read(self) -> Reading | None:
        """The counters; None, and never again, where they cannot be read any more."""
        try:
            return None if self.meter is None else self.meter.read()
        except LlmtraceError as error:
            self.meter, self.unread = None, str(error)
            return None

    def _settled(self) -> Reading | None:
        """The counters once they have come to rest: a call that is over may be counted a little later."""
        until = time.monotonic() + _MORE_S
        reading = self._read()
        while reading is not None:
            self.session.sleep(_POLL_S)
            later = self._read()
            if later is None or (later.tokens == reading.tokens and not later.running) or later.moment > until:
                return later
            reading = later
        return None

    def _followed(self, whole: Answer, cutting: Answer) -> list[Reading]:
        """The counters from the close on until nothing moves, or until a whole answer would have ended."""
        until = cutting.end + _LONGER * (whole.end - whole.sent) + _MORE_S
        if self.meter is None:
            self.session.sleep(max(0.0, until - time.monotonic()))
        readings: list[Reading] = []
        quiet = 0
        while (reading := self._read()) is not None:
            still = bool(readings) and reading.tokens == readings[-1].tokens and not reading.running
            quiet = quiet + 1 if still else 0
            readings.append(reading)
            if quiet >= 5 or reading.moment > until:
                break
            self.session.sleep(_POLL_S)
        # What limits rates must have had the time to count the whole answer too: both calls last equally long.
        self.session.sleep(max(0.0, cutting.sent + (whole.end - whole.sent) - time.monotonic()))
        return readings

    def _hops(
        self, cutting: Answer, idle: list[Reading], whole: tuple[Reading, Reading] | None, before: Reading | None,
        after: list[Reading], cut: Cut,
    ) -> None:  # fmt: skip
        if self.meter is None or self.meter.engine is None or whole is None or before is None or not after:
            engine, aborted = Said("engine", UNKNOWN, why=self.unread), False
        else:
            seen = cuts.Watched(idle, whole, [before, *after])
            engine = cuts.engine(seen, self.meter.engine, cut)
            given_up = (before.aborted, after[-1].aborted)
            aborted = given_up[0] is not None and given_up[1] is not None and given_up[1] > given_up[0]
        hop = gateways.read_headers(cutting.headers, streaming=True)
        urls = () if self.meter is None else self.meter.urls
        elsewhere = any(not same_place(url, self.session.client.base_url) for url in urls)
        if hop is not None or elsewhere:
            name = (hop.gateway if hop is not None else None) or "what lies before the engine"
            self.proof.said.append(cuts.gateway(name, engine, aborted))
        self.proof.said.append(engine)

    # those who charge

    def _limits(self, first: Answer, whole: Answer, middle: Answer, cutting: Answer, last: Answer, cut: Cut) -> None:
        answers = (first, whole, middle, cutting, last)
        for name, limit, window in _REMAINING:
            remaining = [_number(answer.headers.get(name)) for answer in answers]
            if None not in remaining:
                refill = (_number(last.headers.get(limit)) or 0.0) / window
                apart = (middle.sent - first.sent, last.sent - middle.sent)
                told = [each for each in remaining if each is not None]
                self.proof.said.append(cuts.rate_limit(name, told, cut, refill, apart))
                return
        self.proof.said.append(Said("rate limit", UNKNOWN, why="the answers' headers tell no remaining tokens"))

    def _bill(self, cutting: Answer, cut: Cut) -> None:
        if not cutting.id.startswith(records.GENERATION_ID):
            return  # nobody else's answers have such an account
        self.tell("asking for the bill")
        told = records.generation(self.session.client, cutting.id, self.session.sleep)
        if isinstance(told, str):
            self.proof.said.append(Said("OpenRouter", UNKNOWN, why=told))
            return
        how = f"billed for {told.provider or 'the upstream'}, {'' if told.cancelled else 'not '}noted as cancelled"
        self.proof.said.append(cuts.billed("OpenRouter", told.tokens, cut, how))

    def _stored(self, prompt: Prompt, follow: Prompt, whole: Answer, cut: Cut) -> None:
        session = self.session
        if session.client.kind != "openai":
            return
        self.tell("closing a stored response")
        most_prompt = session.prompts.most_tokens(prompt.text)
        most = session.purse.reserve(3 * most_prompt + self.proof.asked, self.proof.asked + records.RESPONSE_LEAST)
        tokens = session.input_tokens(prompt, whole)
        told = records.stored_response(
            session.client, prompt, follow, self.proof.asked, CLOSED_AFTER,
            _LONGER * (whole.end - whole.sent), (tokens, tokens), session.sleep,
        )  # fmt: skip
        session.purse.settle(most, None if isinstance(told, records.Unoffered) else _UNCOUNTED)
        if isinstance(told, str):
            self.proof.said.append(Said("stored response", UNKNOWN, why=told))
            return
        session.calls += 2
        own = Cut(min(told.came, told.tokens), cut.whole, cut.closed, cut.pace)
        self.proof.said.append(cuts.billed("stored response", told.tokens, own, told.how, told.slack))


_UNCOUNTED = Answer(sent=0.0, end=0.0, moments=[])
"""A call whose tokens nobody told: all that was set aside for it counts as spent."""


def _cut(whole: Answer, cutting: Answer) -> Cut:
    tokens, chunks = whole.output_tokens or len(whole.moments), max(1, len(whole.moments))
    if tokens < 3 * CLOSED_AFTER or len(cutting.moments) < CLOSED_AFTER or chunks < 3 * CLOSED_AFTER:
        raise LlmtraceError(
            f"an answer came as {chunks} chunks of {tokens} tokens: it takes {3 * CLOSED_AFTER} of both to close one "
            "in the middle; try another model, or a larger --tokens"
        )
    came = round(len(cutting.moments) * tokens / chunks)
    return Cut(came, tokens, cutting.end, whole.seconds_per_token or 0.0)


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
