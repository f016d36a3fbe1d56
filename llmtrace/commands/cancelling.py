"""What `llmtrace probe cancel` does once its options are read."""

import json
from pathlib import Path
from typing import Any

from llmtrace.commands import probing
from llmtrace.commands.common import INTERRUPTED, fail, terminal
from llmtrace.errors import LlmtraceError
from llmtrace.observe.address import host_of, is_private
from llmtrace.probe import cancel, text
from llmtrace.probe.clients import Client, open_client, shown
from llmtrace.probe.meters import Meter, beside, each_once
from llmtrace.probe.probing import INTERRUPTED_BY_HAND
from llmtrace.probe.prompts import Prompts
from llmtrace.probe.session import Purse, Session
from llmtrace.probe.tracing import Tracing, destination
from llmtrace.whole_file import write_text
from llmtrace.wording import clean


def prove(asked: probing.Asked, tokens: int, metrics: list[str], json_file: Path | None) -> None:
    """Close a stream and print who went on. ``metrics``: pages of the engines behind a gateway."""
    probing.writable(json_file)
    with probing.tellable():
        client = open_client(asked.client, asked.base_urls[0], asked.model)
        known = probing.price_of(client, asked.price, asked.budget)
        meter, unread = _meter(client, metrics)
        prompts = Prompts()
        step = cancel.step(prompts, client.least, tokens, client.kind)
        most = cancel.step(prompts, client.least, tokens, client.kind, most=True)
        if known is not None and asked.budget is not None and most.cost(known) > asked.budget:
            fail(f"the calls may cost {text.usd(most.cost(known))}, more than the budget: nothing was sent")
        screen = terminal(highlight=False)
        private = is_private(host_of(client.base_url))
        screen.print(text.announcement(shown(client.base_url), client.model, [step], known, private), markup=False)
        probing.confirm(asked.yes)
        tracing = Tracing(client.kind, destination(asked.spans), None)
        session = Session(client, prompts, Purse(known, asked.budget), longest=tokens)
        try:
            with probing.progress(session, step.calls) as tell:
                proof = cancel.prove(session, tracing, tokens, meter, unread, tell)
        finally:
            tracing.close()
            client.close()
    try:
        if json_file is not None:
            write_text(json_file, json.dumps(proof.to_json(), indent=1) + "\n")
    finally:
        _show(proof, screen)
    if proof.stopped == INTERRUPTED_BY_HAND:
        raise SystemExit(INTERRUPTED)


def _meter(client: Client, metrics: list[str]) -> tuple[Meter | None, str]:
    """The engine's page of metrics, and why there is none. One that was named has to be readable."""
    private = is_private(host_of(client.base_url))
    if not metrics and not private:
        return None, "the provider shows no counters of its engines"
    meter = Meter(each_once(metrics) or [beside(client.base_url)], client.library.api_key, client.base_url)
    try:
        meter.read()
    except LlmtraceError as error:
        if metrics:
            raise
        return None, f"{error}; --metrics URL names the engine's own page"
    return meter, ""


def _show(proof: cancel.Proof, screen: Any) -> None:
    from rich.table import Table

    spent = "" if proof.usd is None else f", {text.usd(proof.usd)} at most"
    screen.print(
        f"{clean(proof.model, 80)} at {clean(proof.base_url, 120)}: {proof.calls} calls, {proof.prompt_tokens:,} "
        f"prompt and {proof.answer_tokens:,} answer tokens that came{spent}",
        markup=False,
    )
    if proof.came is not None:
        screen.print(f"closed after {proof.came} of {proof.asked} tokens\n", markup=False)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(min_width=14)
    table.add_column(overflow="fold", style="dim")
    for each in proof.said:
        table.add_row(each.hop, cancel.answer(each), clean(each.why, 400))
    screen.print(table, markup=False)
    if proof.stopped:
        screen.print(f"\nended early: {clean(proof.stopped, 300)}", markup=False)
