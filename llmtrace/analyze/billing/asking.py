"""Asks those who know over HTTP: OpenRouter and LiteLLM by each answer's id, OpenAI and Anthropic for their sums."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from typing import Any, Final

from llmtrace.analyze.billing.exports import read_text
from llmtrace.analyze.billing.join import Call
from llmtrace.analyze.billing.records import ANTHROPIC, LITELLM, OPENAI, OPENROUTER, Exports
from llmtrace.errors import LlmtraceError
from llmtrace.observe.address import without_credentials

_TIMEOUT_S = 30.0
_MOST_BYTES = 256 << 20
_MOST_PAGES = 1000
_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    OPENROUTER: ("OPENROUTER_API_KEY",),
    LITELLM: ("LITELLM_MASTER_KEY", "LITELLM_API_KEY"),
    OPENAI: ("OPENAI_ADMIN_KEY",),
    ANTHROPIC: ("ANTHROPIC_ADMIN_KEY",),
}


def is_address(source: str) -> bool:
    """Whether an export is to be asked for.

    Raises:
        LlmtraceError: it has a user and password, which would stand where the key has to.
    """
    is_url = source.startswith(("http://", "https://"))
    if is_url and (plain := without_credentials(source)) != source:
        raise LlmtraceError(f"{plain} is named with a user and password: leave them out, keys are taken from variables")
    return is_url


def ask(url: str, calls: Sequence[Call], into: Exports) -> None:
    """Ask what stands behind ``url``.

    ``calls``: those whose tokens are to be known, each asked for by itself where the answers go by id. Ids that are not
    known there are no mistake.

    Raises:
        LlmtraceError: nobody answers, or the key is refused.
    """
    kind = _kind(url)
    if kind in (OPENAI, ANTHROPIC):
        _pages(url, kind, into)
        return
    base = url.rstrip("/")
    for id in dict.fromkeys(call.response_id for call in calls if call.response_id):
        quoted = urllib.parse.quote(id, safe="")
        at = f"{base}/generation?id={quoted}" if kind == OPENROUTER else f"{base}/spend/logs?request_id={quoted}"
        text = _get(at, kind)
        if text is not None and text.strip() not in ("", "[]", "null"):
            read_text(text, without_credentials(at), into)


def key_for(url: str, kind: str | None = None) -> str:
    """The key from the environment, of whom the address is (``kind``: who that is, where it is known).

    Raises:
        LlmtraceError: there is none.
    """
    variables = _KEYS[kind or _kind(url)]
    key = next((os.environ[name] for name in variables if os.environ.get(name)), "")
    if not key:
        raise LlmtraceError(f"no key for {without_credentials(url)}: set {variables[0]}")
    return key


def _kind(url: str) -> str:
    path = urllib.parse.urlsplit(url).path.rstrip("/")
    if "/organization/usage/" in path:
        return OPENAI
    if "/organizations/usage_report/" in path:
        return ANTHROPIC
    return OPENROUTER if path.endswith("/api/v1") else LITELLM


def _pages(url: str, kind: str, into: Exports) -> None:
    page = ""
    for number in range(_MOST_PAGES):
        joint = "&" if "?" in url else "?"
        text = _get(url + (f"{joint}page={urllib.parse.quote(page, safe='')}" if page else ""), kind)
        if text is None:
            raise LlmtraceError(f"{without_credentials(url)} answers 404")
        read_text(text, f"{without_credentials(url)} page {number + 1}", into)
        page = _next(text)
        if not page:
            return
    raise LlmtraceError(f"{without_credentials(url)} has more than {_MOST_PAGES} pages: ask for less time")


def _next(text: str) -> str:
    """The page after this one, empty where it is the last."""
    try:
        whole: Any = json.loads(text)
        return str(whole.get("next_page") or "") if whole.get("has_more") else ""
    except (ValueError, AttributeError):
        return ""


def _get(url: str, kind: str) -> str | None:
    """The answer; None for a 404: what is asked for is not known there."""
    key = key_for(url, kind)
    headers = {"x-api-key": key, "anthropic-version": "2023-06-01"}
    request = urllib.request.Request(url)
    for name, value in (headers if kind == ANTHROPIC else {"Authorization": f"Bearer {key}"}).items():
        request.add_unredirected_header(name, value)  # a key goes to nobody whom the address does not name
    shown = without_credentials(url).partition("?")[0]
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            return response.read(_MOST_BYTES).decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        if error.code in (401, 403):
            raise LlmtraceError(f"{shown} refuses the key ({error.code}): set {_KEYS[kind][0]}") from None
        raise LlmtraceError(f"{shown} answers {error.code}") from None
    except (OSError, ValueError, HTTPException) as error:
        raise LlmtraceError(f"{shown} cannot be reached ({getattr(error, 'reason', None) or error})") from None
