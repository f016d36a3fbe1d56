"""Which model a request on the wire names: beneath a router another one than the application asked for."""

from __future__ import annotations

import json

from llmtrace.observe.transport import Attempt


def model_sent(attempt: Attempt) -> str | None:
    """The model that this attempt's own request names."""
    try:
        model = json.loads(attempt.request.content).get("model")
    except (ValueError, AttributeError, RuntimeError):  # no JSON, none that is an object, a body that was streamed
        return None
    return model if isinstance(model, str) else None
