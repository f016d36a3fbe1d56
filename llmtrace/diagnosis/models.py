"""Whether the model that answered is the one that was asked for, under another spelling."""

from __future__ import annotations

import re

_SUFFIX = (  # compiled when it is first used
    r"(?:[-@:._](?:\d{4}-\d{2}-\d{2}|\d{8}|\d{6}|\d{4}|\d{3}|latest|preview|exp|stable|v\d+:\d+|\d{2}-\d{2}))+$"
)
_ROUTERS = ("auto", "router", "default", "model-router")
"""Names that ask for whichever model."""
DEPLOYMENTS = frozenset({"azure.ai.openai", "azure.ai.inference"})
"""Providers that are asked for a deployment, which the application has named: no model's name to hold another to."""


def plain(name: str) -> str:
    """A model's name without path, case, date and version: ``models/Gemini-1.5-pro-002`` -> ``gemini-1.5-pro``."""
    return re.sub(_SUFFIX, "", name.lower().rpartition("/")[2])


def same_model(asked: str, answered: str) -> bool:
    """Whether ``answered`` is ``asked`` or a dated, versioned or otherwise spelled one of its snapshots."""
    if asked == answered:
        return True
    wanted, came = plain(asked), plain(answered)
    if wanted == came or wanted in _ROUTERS or wanted.endswith("-router"):
        return True
    # Bedrock puts region and vendor in front: us.anthropic.claude-3-5-sonnet-20241022-v2:0
    return wanted.endswith("." + came) or came.endswith("." + wanted)
