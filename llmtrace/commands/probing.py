"""What `llmtrace probe` does once its options are read."""

import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from llmtrace.commands.common import INTERRUPTED, fail, needs, terminal
from llmtrace.observe.address import host_of, is_private
from llmtrace.probe import plan, text, watching
from llmtrace.probe.answers import Exhausted, Refusal
from llmtrace.probe.clients import Client, open_client, shown
from llmtrace.probe.plan import Step
from llmtrace.probe.probing import INTERRUPTED_BY_HAND
from llmtrace.probe.probing import probe as ask
from llmtrace.probe.prompts import Prompts
from llmtrace.probe.session import Purse, Session
from llmtrace.probe.tracing import Tracing, destination
from llmtrace.tasks import prices
from llmtrace.tasks.prices import Price
from llmtrace.whole_file import write_text
from llmtrace.wording import clean

_PER_MILLION = 1e6
_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Asked:
    """The options that both ways share."""

    client: str | None
    base_urls: list[str | None]
    model: str | None
    budget: float | None
    """USD."""
    price: tuple[float, float] | None
    """USD per million prompt and answer tokens."""
    yes: bool
    spans: Path | None


def spec_sheet(
    asked: Asked, longest: int, at_once: int, ttl: float | None, json_file: Path | None, baseline: Path | None
) -> None:
    """Ask everything once, and print the sheet."""
    writable(json_file)
    with tellable():
        client = open_client(asked.client, asked.base_urls[0], asked.model)
        known = price_of(client, asked.price, asked.budget)
        screen = terminal(highlight=False)
        options = plan.Options(min(longest, _room(client)), at_once, ttl)
        steps = _affordable(plan.steps(options, client.least), known, asked.budget, client, screen)
        confirm(asked.yes)
        tracing = Tracing(client.kind, destination(asked.spans), baseline)
        before = _written(tracing.baseline)
        session = Session(client, Prompts(), Purse(known, asked.budget), options.longest)
        try:
            with progress(session, sum(step.calls for step in steps)) as tell:
                sheet, learned = ask(session, tracing, steps, options, lambda step: tell(step.name))
        finally:
            tracing.close()
            client.close()
    try:
        if json_file is not None:
            write_text(json_file, json.dumps(sheet.to_json(), indent=1) + "\n")
    finally:
        text.print_sheet(sheet, screen)
    if tracing.baseline and learned.prompts:
        missing = "" if _written(tracing.baseline) != before else " was not written"
        screen.print(f"\nbaseline: {clean(tracing.baseline)}{missing}", markup=False, soft_wrap=True)
    if sheet.stopped == INTERRUPTED_BY_HAND:
        raise SystemExit(INTERRUPTED)


def writable(path: Path | None) -> None:
    """Nothing is paid for before it is clear that there is a place for what it shows."""
    if path is None:
        return
    if path.is_dir():
        fail(f"cannot write {path}: it is a folder")
    if not path.parent.is_dir():
        fail(f"cannot write {path}: there is no folder {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        fail(f"cannot write {path}: it is not allowed here")


def _written(path: str | None) -> int:
    """When a file was last written, epoch ns; 0 where it is not there."""
    try:
        return os.stat(path).st_mtime_ns if path else 0
    except OSError:
        return 0


@contextlib.contextmanager
def tellable() -> Generator[None]:
    """A provider that does not answer is told in one line."""
    try:
        yield
    except Refusal as refusal:
        fail(str(refusal))


def _affordable(
    steps: list[Step], known: Price | None, budget: float | None, client: Client, screen: Any
) -> list[Step]:
    """The steps that will be taken, after saying what they are and cost."""
    left_out: list[Step] = []
    if budget is not None and known is not None:
        steps, left_out = plan.affordable(steps, known, budget)
        if not steps:
            least = left_out[0].cost(known)
            fail(f"the first calls alone may cost {text.usd(least)}, more than the budget: nothing was sent")
    private = is_private(host_of(client.base_url))
    screen.print(text.announcement(shown(client.base_url), client.model, steps, known, private), markup=False)
    if left_out:
        screen.print(f"the budget leaves out: {', '.join(step.name for step in left_out)}", markup=False)
    return steps


def watch(asked: Asked, every: float, rounds: int, state: Path | None) -> None:
    """Rounds until their number, the budget or Ctrl-C ends them. ``every``: s between them; ``rounds``: 0 for ever."""
    writable(state)
    with tellable():
        clients = [open_client(asked.client, url, asked.model) for url in asked.base_urls]
        budget = Purse(budget=asked.budget)
        purses = [budget.priced(price_of(client, asked.price, asked.budget)) for client in clients]
        screen = terminal(highlight=False)
        for client, purse in zip(clients, purses, strict=True):
            _announce_rounds(client, purse.price, every, screen)
            client.offer_logprobs()
        confirm(asked.yes)
        tracing = Tracing(clients[0].kind, destination(asked.spans), None)
        watched = [
            watching.Watched(Session(client, Prompts(), purse, watching.LONG), tracing)
            for client, purse in zip(clients, purses, strict=True)
        ]
        meters = watching.Meters(tracing.meters)
        try:
            if state is not None:
                watching.load(state, watched)
            for one in watched:
                meters.begin(one)
            for number in itertools.count() if not rounds else range(rounds):
                time.sleep(every if number else 0)
                for one in watched:
                    _round(one, meters, screen)
                if state is not None:
                    watching.save(state, watched)
        except Exhausted:
            if not any(one.rounds for one in watched):
                fail("the budget does not pay for a whole round")
            screen.print("the budget is spent", markup=False)
        finally:
            tracing.close()
            for client in clients:
                client.close()


def _announce_rounds(client: Client, price: Price | None, every: float, screen: Any) -> None:
    step = Step("watch", watching.CALLS, watching.LONG + 2 * watching.SHORT, 2 * client.least + watching.ANSWER)
    cost = "" if price is None else f", {text.usd(step.cost(price))} a round"
    if price is not None and every:
        cost += f", {text.usd(step.cost(price) * _DAY_S / every)} a day"
    screen.print(
        f"{clean(client.model, 80)} at {clean(shown(client.base_url))}: {step.calls} calls every {every:g} s, "
        f"about {step.prompt_tokens:,} prompt and {step.answer_tokens} answer tokens{cost}",
        markup=False,
    )


def _round(one: watching.Watched, meters: watching.Meters, screen: Any) -> None:
    at = f"{time.strftime('%H:%M:%S')} {clean(shown(one.session.client.base_url))}"
    try:
        measured, changes = one.round()
    except Refusal as refusal:
        if not one.rounds:
            raise
        screen.print(f"{at}: {refusal}", markup=False)
        return
    meters.record(one, measured, changes)
    times = [f"{kind} {text.seconds(seconds)}" for kind, seconds in measured.parts.items() if seconds is not None]
    screen.print(f"{at}: {', '.join(times)}", markup=False)
    for kind, change in changes.items():
        screen.print(f"{at}: {clean(watching.told(kind, change))}", style="bold", markup=False)


def price_of(client: Client, given: tuple[float, float] | None, budget: float | None) -> Price | None:
    """The model's price, None where it is not known and nobody asked for a budget."""
    if given is not None:
        into, out = (each / _PER_MILLION for each in given)
        return prices.Price(input=into, cached=into, written=into, output=out)
    if budget is None:
        if is_private(host_of(client.base_url)):
            return None
        with contextlib.suppress(ImportError):  # without the price list the announcement says that it does not know
            return prices.price(client.provider, client.model)
        return None
    with needs("analyze"):
        known = prices.price(client.provider, client.model)
    if known is None:
        fail(
            f"the price of {client.model} is not known, so that a budget cannot be kept: "
            "give --price IN OUT, in USD per million tokens"
        )
    return known


def _room(client: Client) -> int:
    """The longest prompt that the model's listed context has room for, where it is listed."""
    for each in client.models():
        length = getattr(each, "max_model_len", None)
        if getattr(each, "id", None) == client.model and isinstance(length, int):
            return max(plan.LEAST_LONGEST, int(0.9 * length) - plan.BESIDE_ANSWER // 2)
    return sys.maxsize


def confirm(yes: bool) -> None:
    """Ask whether to send, unless that was said already; leave where the answer is no."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail("nothing was sent: say --yes where nobody can be asked")
    if not typer.confirm("Send them?"):
        raise SystemExit(0)


@contextlib.contextmanager
def progress(session: Session, calls: int) -> Generator[Callable[[str], object]]:
    """A bar over all calls, on stderr; gives the function that is told what is going on."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("probe", total=calls)
        session.done = lambda: bar.advance(task)
        yield lambda what: bar.update(task, description=what)
