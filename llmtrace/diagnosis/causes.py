"""One small function per cause that needs no other: what the call alone says, and the names that answered."""

from __future__ import annotations

from llmtrace.diagnosis.gathered import gathered
from llmtrace.diagnosis.history import TINY
from llmtrace.diagnosis.models import same_model
from llmtrace.diagnosis.route import Route
from llmtrace.diagnosis.symptoms import BURSTS, Symptoms, came_earlier
from llmtrace.diagnosis.verdict import (
    BUFFERED_STREAM,
    CHANGED_FOR,
    LEAST_S,
    MODEL_SWAP,
    REPETITION_LOOP,
    RETRY_STORM,
    SLOW_CONSUMER,
    Verdict,
)

STORM = 3
"""Attempts of one call, or ..."""
STORMY = 4
"""... retried calls among the last eight, that make a storm."""
HELD_SHARE = 0.25
"""An application that held the stream for this share of its reading is a slow consumer."""
OF_CALL = 0.1
"""And for this share of the call."""
FEW_BURSTS = 2
"""Calls whose chunks were gathered on the way, of the last four, before that is told. Where it does not show, all four
must have come together: of 300 calm calls to vLLM on a machine of two cores 18 found chunks lying ready because their
own process got no core, up to three in a row."""
LATELY = 0xF
"""Those four, a bit each."""
BY_BURSTS = 1.5
AT_ONCE, IN_BURSTS = "the whole stream came at once", "the chunks came in bursts"
SLOWER = 0.02
"""A route's shortest median gap grows again by this share of the way to each longer one."""
KNOWN_ANSWERS = 10
"""Calls after which another model than ever before is news."""
PLAIN, FAIR, WEAK = 4.0, 2.0, 1.0
"""Scores of what is a fact and no matter of degree: another model than asked for, than before, a new fingerprint."""
NEW_FINGERPRINT = 8
"""Calls in a row with the same fingerprint, never seen before them, that make a swap."""


def slow_consumer(symptoms: Symptoms) -> Verdict | None:
    """The application held the stream while the next chunk lay ready."""
    held = symptoms.consumer_wait
    if held < LEAST_S or held < HELD_SHARE * symptoms.reading or held < OF_CALL * (symptoms.end - symptoms.begin) / 1e9:
        return None
    share = held / symptoms.reading if symptoms.reading > 0 else 1.0
    return Verdict(SLOW_CONSUMER, share / HELD_SHARE, "consumer_wait", held, 0.0, held)


def retry_storm(route: Route, symptoms: Symptoms) -> Verdict | None:
    """The call was tried again and again, or most of the route's last calls were."""
    lately = route.retried(symptoms.attempts > 1)
    if symptoms.attempts < 2 or (symptoms.attempts < STORM and lately < STORMY):
        return None
    reason = symptoms.refusals or None
    score = max(symptoms.attempts / (STORM - 1), lately / 2)
    return Verdict(
        RETRY_STORM,
        score,
        "attempts",
        float(symptoms.attempts),
        1.0,
        symptoms.retrying,
        reason=reason,
    )


def repetition_loop(symptoms: Symptoms) -> Verdict | None:
    """The stream's end is the same text over and over."""
    repetition = symptoms.repetition
    if repetition is None:
        return None
    reason = f"period of {repetition.period} characters"
    return Verdict(REPETITION_LOOP, repetition.rounds / 1.5, "rounds", repetition.rounds, 1.0, reason=reason)


def buffered_stream(route: Route, timed: Route, symptoms: Symptoms) -> Verdict | None:
    """Silence and then everything at once, or chunks in bursts on a route where they came one by one; again and again,
    and gathered on the way, as far as the kernel shows that.

    ``timed``: the history by which the call's times are judged.
    """
    if symptoms.buffered:
        score, quantity, observed, usual, reason = PLAIN, "time_to_first_token", symptoms.silence, None, AT_ONCE
    else:
        if symptoms.gap is None or not symptoms.mean_gap:
            return None
        observed, usual = symptoms.gap / symptoms.mean_gap, timed.evenness.mid
        if not _in_bursts(timed, symptoms.gap, observed):
            if route.bursts:
                route.bursts, route.gathered = route.bursts << 1 & LATELY, route.gathered << 1 & LATELY
            return None
        score = BY_BURSTS * (usual - observed) / max(usual - BURSTS, TINY)
        quantity, reason = "chunk_evenness", IN_BURSTS
        # The first token waited for the rest of its burst.
        came_earlier(symptoms, max(symptoms.burst, symptoms.ready_at_first * timed.least_gap))
    symptoms.headers = None  # they too waited for what they came with
    on_the_way = gathered(symptoms)
    route.bursts = (route.bursts << 1 | 1) & LATELY
    route.gathered = (route.gathered << 1 | (on_the_way is True)) & LATELY
    if not on_the_way or route.gathered.bit_count() < FEW_BURSTS:
        if route.bursts != LATELY:
            return None
        score = 1.0
    return Verdict(BUFFERED_STREAM, score, quantity, observed, usual, reason=reason)


def _in_bursts(timed: Route, gap: float, even: float) -> bool:
    """Whether the median gap collapsed, to less than the model ever needed: a few long stalls that raise the mean are
    no bursts. ``even``: it by the mean gap, which is learned."""
    usual, least = timed.evenness, timed.least_gap
    if even < BURSTS < usual.mid / 2 and gap < BURSTS * least and usual.ready:
        usual.learn(even, True)
        return True
    usual.learn(even, False)
    timed.least_gap = gap if gap < least else least + SLOWER * ((gap if gap < 1.0 else 1.0) - least)
    return False


def model_swap(route: Route, symptoms: Symptoms) -> Verdict | None:
    """Another model answered than was asked for, or than ever answered here.

    What has always been so is an alias: it is told for the route's first calls only. A fingerprint that stays, and was
    never seen before, is told too, as the weakest evidence.
    """
    answered, known = symptoms.answered, route.answers
    if answered is None or known.is_only(answered):
        return None
    times, verdict = known.counts.get(answered, 0), None
    if times < CHANGED_FOR:
        verdict = _swapped(route, symptoms.asked, answered, times)
    known.learn(answered)
    return verdict


def _swapped(route: Route, asked: str | None, answered: str, times: int) -> Verdict | None:
    """``times``: how often this model answered lately."""
    if asked is not None and not same_model(asked, answered):
        return Verdict(MODEL_SWAP, PLAIN, "model", answered, asked, reason="not the model asked for")
    known = route.answers
    if len(known.items) - times < KNOWN_ANSWERS:
        return None
    usual = max(known.counts, key=known.counts.__getitem__)
    if usual == answered:
        return None
    return Verdict(MODEL_SWAP, FAIR, "model", answered, usual, reason="not the model that answered before")


def fingerprint_swap(route: Route) -> Verdict | None:
    """One fingerprint, never seen before, in all of the last calls."""
    prints = route.fingerprints
    run, fresh = prints.run, prints.fresh
    if fresh is None or not NEW_FINGERPRINT <= run < NEW_FINGERPRINT + CHANGED_FOR:
        return None
    if len(prints.items) - run < KNOWN_ANSWERS:
        return None
    usual = max((name for name in prints.counts if name != fresh), key=prints.counts.__getitem__)
    return Verdict(MODEL_SWAP, WEAK, "fingerprint", fresh, usual, reason="a new fingerprint that stays")
