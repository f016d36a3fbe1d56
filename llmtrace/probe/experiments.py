"""The designed calls, step by step. Each step sends and notes what came back; what it means is found elsewhere."""

from __future__ import annotations

import contextvars
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from llmtrace.probe import plan
from llmtrace.probe.answers import Answer, Exhausted, Live, Refusal
from llmtrace.probe.learned import Burst, Learned, Reused
from llmtrace.probe.maths import cache, fits
from llmtrace.probe.maths.bursts import Stream
from llmtrace.probe.maths.chunks import Window
from llmtrace.probe.maths.intervals import median
from llmtrace.probe.plan import Options
from llmtrace.probe.prompts import Prompt
from llmtrace.probe.session import Session

_GREETINGS = (60, 340)
_SETTLED = 8
"""Tokens of a running stream before a prompt is laid beside it."""
_WAIT_S = 60.0
_APART_S = 0.004
"""Between the calls of a burst, so that they have an order."""
_JUMP_S, _JUMP_SHARE = 0.5, 0.02
"""The two clocks may differ by so much over an idle time."""
_FIRST_SHARE = 0.5
"""Of the time for finding how long prefixes are kept, so much is the longest idle time of the first round."""


def greet(session: Session, learned: Learned, options: Options) -> None:
    """Two calls, from whose counts the tokens of later prompts are reckoned."""
    sent: list[tuple[str, int]] = []
    for size in _GREETINGS:
        prompt = session.prompts.unique(size)
        answer = session.ask(prompt)
        learned.counts_tokens = answer.input_tokens is not None
        learned.counts_cached = answer.cached_tokens is not None
        _note(learned, answer)
        if answer.input_tokens is not None:
            sent.append((prompt.text, answer.input_tokens))
            session.prompts.guess(prompt.text, answer.input_tokens)
    if len(sent) == 2:
        session.prompts.learn(sent[0], sent[1])


def curve(session: Session, learned: Learned, options: Options) -> None:
    """New prompts of every length, the order mixed so that no drift of the engine's looks like a length."""
    lengths = plan.sizes(session.longest) * plan.ROUNDS
    random.Random(0).shuffle(lengths)
    for length in lengths:
        prompt, answer = session.sized(length)
        tokens = session.input_tokens(prompt, answer)
        _note(learned, answer)
        learned.longest = max(learned.longest, tokens)
        learned.prompts.append((tokens - (answer.cached_tokens or 0), answer.ttft))


def reuse(session: Session, learned: Learned, options: Options) -> None:
    """A prompt, then others that begin like it and part from it at different places; then the shortest beginning that
    is kept, by halving."""
    first, _ = session.sized(round(plan.CACHED_PROMPT * session.longest))
    chance = random.Random(0)
    shares = [(i + 0.15 + 0.7 * chance.random()) / plan.BRANCHES for i in range(plan.BRANCHES)]
    chance.shuffle(shares)
    for share in shares:
        _branch(session, learned, first, share)
    whole = session.prompts.tokens(first.text)
    for _ in range(plan.HALVINGS):
        edges = cache.minimum([cache.Reuse(one.shared, one.cached or 0) for one in learned.reused])
        if edges is None:
            return
        low, high = edges
        _branch(session, learned, first, (low + high * 1.02) / 2 / whole)


def _branch(session: Session, learned: Learned, first: Prompt, share: float) -> None:
    prompt, shared = session.prompts.branch(first, min(1.0, share))
    answer = session.ask(prompt)
    _note(learned, answer)
    learned.counts_cached = learned.counts_cached or answer.cached_tokens is not None
    tokens = session.input_tokens(prompt, answer)
    learned.reused.append(Reused(shared, tokens, answer.cached_tokens, answer.ttft))


def answers(session: Session, learned: Learned, options: Options) -> None:
    """Long answers to prompts of different lengths."""
    lengths = plan.sizes(session.longest, plan.CONTEXTS) * plan.ROUNDS
    random.Random(1).shuffle(lengths)
    for length in lengths:
        prompt, answer = session.sized(length - plan.ANSWER, plan.ANSWER)
        _note(learned, answer)
        if (pace := answer.seconds_per_token) is not None:
            context = session.input_tokens(prompt, answer) + (answer.output_tokens or 0) / 2
            learned.answers.append((context, pace))


def beside(session: Session, learned: Learned, options: Options) -> None:
    """Long prompts beside a running stream, whose tokens come late meanwhile."""
    for share in plan.BESIDE_SIZES:
        live = Live()
        outcome: list[Answer | Exception] = []
        long = session.prompts.unique(round(share * session.longest))
        stream = _in_thread(session, session.prompts.unique(plan.SHORTEST), plan.BESIDE_ANSWER, live, outcome)
        try:
            deadline = session.clock() + _WAIT_S
            while len(live.moments) < _SETTLED and stream.is_alive() and session.clock() < deadline:
                session.sleep(0.002)
            answer = session.ask(long)
            seen = len(live.moments)
            while len(live.moments) == seen and stream.is_alive() and session.clock() < deadline:
                session.sleep(0.002)  # one token more, so that the last stall is whole
        finally:
            live.stop.set()
            stream.join()
        if outcome and isinstance(outcome[0], Exception):
            raise outcome[0]
        moments = list(live.moments)
        before = [moment for moment in moments if moment <= answer.sent]
        gaps = list(pairwise(moments))
        if len(before) >= 4 and moments[-1] > answer.first:
            plain = median([b - a for a, b in gaps if b <= answer.sent])
            during = [b - a for a, b in gaps if b > answer.sent and a < answer.first]
            learned.windows.append(Window(session.input_tokens(long, answer), during, plain, answer.ttft))


def _in_thread(
    session: Session, prompt: Prompt, tokens: int, live: Live, outcome: list[Answer | Exception]
) -> threading.Thread:
    def send() -> None:
        try:
            outcome.append(session.ask(prompt, tokens, live, patient=False))
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(send,), daemon=True)
    thread.start()
    return thread


def burst(session: Session, learned: Learned, options: Options) -> None:
    """Many short prompts at once, their answers of different lengths so that they end one by one."""
    chance = random.Random(2)
    for tokens in plan.BURSTS:
        prompts = [session.prompts.unique(plan.SHORTEST) for _ in range(options.at_once)]
        lengths = [round(tokens * (0.75 + i / (2 * options.at_once))) for i in range(options.at_once)]
        chance.shuffle(lengths)
        outcomes = session.at_once(prompts, lengths, _APART_S)
        shown = Burst(options.at_once)
        for outcome in outcomes:
            if isinstance(outcome, Answer):
                _note(learned, outcome)
                if outcome.moments:
                    shown.streams.append(Stream(outcome.sent, outcome.first, outcome.moments[-1]))
            elif isinstance(outcome, Refusal) and outcome.status == 429:
                shown.limited += 1
        learned.bursts.append(shown)
        for outcome in outcomes:
            if isinstance(outcome, Exhausted) or (isinstance(outcome, Refusal) and outcome.status != 429):
                raise outcome
        if shown.limited:
            return


def life(session: Session, learned: Learned, options: Options) -> None:
    """Prompts that are sent, left alone for a while each, and sent again; then closer around where they were lost."""
    if options.life_s is None:
        return
    learned.life_asked = True
    deadline = session.clock() + options.life_s
    cost = fits.prompt_cost(learned.prompts)
    longest = _FIRST_SHARE * options.life_s
    _let_lie(session, learned, cost, [longest / 2**i for i in range(plan.FIRST_IDLES)])
    for _ in range(plan.LATER_ROUNDS):
        low, high = cache.life(learned.idles)
        idles = [idle for idle in cache.between(low, high, plan.LATER_IDLES) if session.clock() + idle < deadline]
        if high > longest or not low or not idles:
            return
        _let_lie(session, learned, cost, idles)


@dataclass(frozen=True, slots=True)
class _Lying:
    """A prompt that is left alone, and when it is to be sent again."""

    due: float
    prompt: Prompt
    answer: Answer
    ahead: float
    """What the wall's clock was ahead of the monotonic one, s."""


def _let_lie(session: Session, learned: Learned, cost: fits.PromptCost | None, idles: list[float]) -> None:
    lying: list[_Lying] = []
    for idle in sorted(idles, reverse=True):
        prompt = session.prompts.unique(plan.life_prompt(session.longest))
        answer = session.ask(prompt)
        lying.append(_Lying(answer.first + idle, prompt, answer, session.wall() - session.clock()))
    for one in sorted(lying, key=lambda each: each.due):
        session.sleep(max(0.0, one.due - session.clock()))
        again = session.ask(one.prompt)
        longest = again.first - one.answer.first
        jump = abs(session.wall() - session.clock() - one.ahead)
        if jump > _JUMP_S + _JUMP_SHARE * longest:
            learned.jumped += 1
            continue
        hit = _hit(session, cost, one.prompt, again)
        if hit is not None:
            # When the engine looked is not seen: what was kept was kept so long at least, what was lost at most.
            learned.idles.append(cache.Idle(max(0.0, again.sent - one.answer.end) if hit else longest, hit))


def _hit(session: Session, cost: fits.PromptCost | None, prompt: Prompt, answer: Answer) -> bool | None:
    """Whether a prompt came from the cache; by its time where nobody counts, and None where that does not tell."""
    if answer.cached_tokens is not None:
        return answer.cached_tokens > 0
    if cost is None:
        return None
    fresh = cost.seconds(session.input_tokens(prompt, answer))
    return None if fresh < 2 * cost.fixed.value else answer.ttft < (fresh + cost.fixed.value) / 2


_LIMITS = ("ratelimit-limit-", "ratelimit-requests-limit", "ratelimit-tokens-limit", "ratelimit-input-tokens-limit")


def _note(learned: Learned, answer: Answer) -> None:
    for name, value in answer.headers.items():
        if any(part in name for part in _LIMITS):
            learned.limits[name] = value[:40]


STEPS: Mapping[str, Callable[[Session, Learned, Options], None]] = {
    plan.GREET: greet,
    plan.CURVE: curve,
    plan.CACHE: reuse,
    plan.ANSWERS: answers,
    plan.BESIDE: beside,
    plan.BURST: burst,
    plan.LIFE: life,
}
