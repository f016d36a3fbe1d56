"""Sends the probe's calls, one by one or at once, and none that the budget may not pay for."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llmtrace.observe.answer import Usage
from llmtrace.probe.answers import Answer, Exhausted, Live, Refusal, TooLong, TooShort
from llmtrace.probe.clients import Client
from llmtrace.probe.plan import LEAST_LONGEST
from llmtrace.probe.prompts import Prompt, Prompts
from llmtrace.tasks.prices import Price

_PATIENCE_S = 30.0
"""The longest that a rate limit is waited for."""
_RETRIES = 3
_USUAL_WAIT_S = 2.0


@dataclass(slots=True)
class _Account:
    """What was spent and set aside, USD, and of what budget."""

    budget: float | None
    spent: float = 0.0
    set_aside: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Purse:
    """The budget in USD. A call's most is set aside before it is sent; safe for several threads."""

    def __init__(self, price: Price | None = None, budget: float | None = None) -> None:
        self.price = price
        self._account = _Account(budget)

    @property
    def spent(self) -> float:
        """USD, as far as the provider's counts tell; else the most."""
        return self._account.spent

    def priced(self, price: Price | None) -> Purse:
        """The same budget, for another model's calls."""
        other = Purse(price)
        other._account = self._account
        return other

    def reserve(self, prompt_tokens: int, answer_tokens: int) -> float:
        """Set a call's most aside and return it, USD.

        Raises:
            Exhausted: it would pass the budget.
        """
        if self.price is None:
            return 0.0
        most = self.price.of(Usage(input_tokens=prompt_tokens, output_tokens=answer_tokens, cache_write_tokens=0))
        most = max(most, prompt_tokens * self.price.written + answer_tokens * self.price.output)
        account = self._account
        with account.lock:
            if account.budget is not None and account.spent + account.set_aside + most > account.budget:
                raise Exhausted
            account.set_aside += most
        return most

    def settle(self, most: float, answer: Answer | None) -> None:
        """The call is over. ``answer``: None where it was refused, and nothing is to be paid."""
        account = self._account
        with account.lock:
            account.set_aside -= most
            if answer is None or self.price is None:
                return
            if answer.input_tokens is None or answer.output_tokens is None:
                account.spent += most
                return
            counts = answer.input_tokens, answer.cached_tokens, answer.output_tokens
            account.spent += min(
                most, self.price.of(Usage(counts[0], cached_tokens=counts[1], output_tokens=counts[2]))
            )


@dataclass
class Session:
    """What the steps send through."""

    client: Client
    prompts: Prompts
    purse: Purse
    longest: int
    """Tokens of the longest prompt that fits, as far as known."""
    done: Callable[[], object] = lambda: None
    """Told of each call that is over."""
    sleep: Callable[[float], object] = time.sleep
    clock: Callable[[], float] = time.monotonic
    """s; does not go on while the machine sleeps, on some systems."""
    wall: Callable[[], float] = time.time
    calls: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    limited: list[Refusal] = field(default_factory=list[Refusal])
    """Refusals for the rate."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, prompt: Prompt, tokens: int | None = None, live: Live | None = None, patient: bool = True) -> Answer:
        """Send one call. ``tokens``: of its answer, None for a short one; ``patient``: wait where the rate is limited.

        Raises:
            Exhausted: it might pass the budget, and was not sent.
            Refusal: the provider does not answer it.
        """
        for again in range(_RETRIES, -1, -1):
            try:
                return self._ask(prompt, tokens, live)
            except Refusal as refusal:
                if refusal.status != 429:
                    raise
                self.limited.append(refusal)
                wait = _USUAL_WAIT_S if refusal.retry_after is None else refusal.retry_after
                if not patient or not again or wait > _PATIENCE_S or self.calls == 0:
                    raise
                self.sleep(wait)
        raise AssertionError

    def _ask(self, prompt: Prompt, tokens: int | None, live: Live | None) -> Answer:
        answer: Answer | None = None
        while answer is None:
            wanted = max(self.client.least, tokens or 0)
            most = self.purse.reserve(self.prompts.most_tokens(prompt.text), wanted)
            try:
                answer = self.client.send(prompt, wanted, live)
            except TooShort:
                continue  # now with longer answers, which the budget has to pay for as well
            finally:
                self.purse.settle(most, answer)
        with self._lock:
            self.calls += 1
            self.prompt_tokens += self.input_tokens(prompt, answer)
            self.answer_tokens += answer.output_tokens or len(answer.moments)
        self.done()
        return answer

    def sized(self, tokens: int, answer: int | None = None) -> tuple[Prompt, Answer]:
        """Send a new prompt of about so many tokens, or of the most that fit the model's context."""
        while True:
            size = min(tokens, self.longest)
            prompt = self.prompts.unique(size)
            try:
                return prompt, self.ask(prompt, answer)
            except TooLong:
                self.longest = int(size * 0.7)
                if self.longest < LEAST_LONGEST:
                    raise

    def at_once(self, prompts: Sequence[Prompt], answers: Sequence[int], apart: float) -> list[Answer | Exception]:
        """Send calls from a thread each, ``apart`` s after one another; what became of each, in the order sent."""
        outcomes: list[Answer | Exception] = [Refusal("not sent") for _ in prompts]

        def send(i: int) -> None:
            try:
                outcomes[i] = self.ask(prompts[i], answers[i], patient=False)
            except Exception as error:
                outcomes[i] = error

        threads: list[threading.Thread] = []
        for i in range(len(prompts)):
            context = contextvars.copy_context()
            threads.append(threading.Thread(target=context.run, args=(send, i), daemon=True))
            threads[-1].start()
            self.sleep(apart)
        for thread in threads:
            thread.join()
        return outcomes

    def input_tokens(self, prompt: Prompt, answer: Answer) -> int:
        """A prompt's tokens, told or reckoned."""
        return self.prompts.tokens(prompt.text) if answer.input_tokens is None else answer.input_tokens
