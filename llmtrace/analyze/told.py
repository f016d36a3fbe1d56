"""Who else told a call's output tokens, and between which bounds they are where nobody did."""

from __future__ import annotations

from typing import Any

from llmtrace.analyze.expressions import first, when

USAGE = "usage of the answer"
REFUSAL = "the refusal"
NOBODY = "not told"
_REFUSED = "^4(0[0-79]|[1-8][0-9]|9[0-8])$"
"""4xx, but for 408 and 499: whoever waited too long, or left, may have been generated for."""


def bounded(spans: Any, calls: Any) -> Any:
    """``calls`` with ``exact``, ``lower`` and ``upper`` output tokens, ``hop`` (who told them) and ``billed_usd``.

    ``is_refused``: the call was answered by a status of 4xx and nothing came, so nobody generates or charges.
    """
    table = told_later(spans, calls)
    came_to_nothing = (first(table.delivered_tokens, 0) == 0) & (first(table.output_tokens, 0) == 0)
    refused = (table.outcome == "error") & first(table.error_type, "").re_search(_REFUSED) & came_to_nothing
    table = table.mutate(is_refused=first(refused & table.told_tokens.isnull(), False))
    exact = first(table.told_tokens, table.billed_tokens, when(table.is_refused, 0))
    return table.mutate(
        billed_usd=first(table.billed_usd, when(table.is_refused, 0.0)),
        exact=exact,
        lower=first(exact, table.billed_lower, table.delivered_tokens, table.output_tokens),
        upper=first(exact, table.billed_upper, table.max_tokens),
        hop=first(table.told_by, when(table.is_refused, REFUSAL), when(exact.notnull(), USAGE, NOBODY)),
    )


def told_later(spans: Any, calls: Any) -> Any:
    """``calls`` with ``told_tokens``: the output tokens of the call by another span's account, else null; ``told_by``:
    whose, and ``billed_usd``.

    What was billed (``llmtrace reconcile``) counts first. An engine's server span under the call (or under an attempt
    or a transport span of it) counts them, or its decode phase does. Any other span with the same response id does too:
    a gateway's, or one that looked the usage up later.
    """
    decoded = spans.filter((spans.phase == "decode") & spans.parent_id.notnull())
    decoded = decoded.group_by(made_trace=decoded.trace_id, made_by=decoded.parent_id).agg(
        made=decoded.phase_tokens.sum()
    )
    servers = spans.filter((spans.kind == "server") & spans.parent_id.notnull())
    servers = servers.select("trace_id", "span_id", "parent_id", "output_tokens", "service")
    servers = servers.left_join(decoded, [("trace_id", "made_trace"), ("span_id", "made_by")])
    servers = servers.mutate(tokens=first(servers.output_tokens, servers.made)).filter(lambda t: t.tokens.notnull())
    above = spans.select(up_trace="trace_id", up_span="span_id", up_parent="parent_id")
    servers = servers.left_join(above, [("trace_id", "up_trace"), ("parent_id", "up_span")])
    own = servers.select("trace_id", "tokens", "service", owner="parent_id")
    nested = servers.filter(servers.up_parent.notnull()).select("trace_id", "tokens", "service", owner="up_parent")
    both = own.union(nested)
    by_span = both.group_by(server_trace=both.trace_id, served=both.owner).agg(
        server_tokens=both.tokens.max(), server=both.service.max()
    )
    joined = calls.left_join(by_span, [("trace_id", "server_trace"), ("span_id", "served")])
    others = spans.filter(spans.response_id.notnull() & spans.output_tokens.notnull() & spans.phase.isnull())
    others = others.anti_join(
        calls.select(own_trace="trace_id", own_span="span_id"), [("trace_id", "own_trace"), ("span_id", "own_span")]
    )
    by_id = others.group_by(later_id=others.response_id).agg(
        later_tokens=others.output_tokens.max(), later=others.service.max()
    )
    joined = joined.left_join(by_id, [("response_id", "later_id")])
    bills = spans.filter(spans.billed_output.notnull() & spans.parent_id.notnull())
    by_bill = bills.group_by(bill_trace=bills.trace_id, bill_of=bills.parent_id).agg(
        bill_tokens=bills.billed_output.max(), billed_usd=bills.billed_usd.max(), biller=bills.billed_by.max()
    )
    joined = joined.drop("billed_usd").left_join(by_bill, [("trace_id", "bill_trace"), ("span_id", "bill_of")])
    told_by = first(
        joined.biller,
        when(joined.server_tokens.notnull(), first(joined.server, "server")),
        when(joined.later_tokens.notnull(), first(joined.later, "another span")),
    )
    told = first(joined.bill_tokens, joined.server_tokens, joined.later_tokens)
    return joined.mutate(told_tokens=told, told_by=told_by).drop(
        "server_trace", "served", "server_tokens", "server", "later_id", "later_tokens", "later", "bill_trace",
        "bill_of", "bill_tokens", "biller",
    )  # fmt: skip
