"""Jaeger's UI configuration: what the UI takes, and searches for what llmtrace writes."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import pytest
import yaml

from llmtrace.diagnosis.verdict import CAUSES, TOLD_CAUSES
from llmtrace.emit import names
from llmtrace.phases.model import PHASES

JAEGER = Path(__file__).parents[2] / "examples" / "jaeger"
UI = json.loads((JAEGER / "ui.json").read_text(encoding="utf-8"))
NAMES = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
SPANS = {names.SPAN_PREFIX + phase for phase in PHASES} | {names.ATTEMPT}

TEXT = {"type": "string", "minLength": 1}
FLAG = {"type": "boolean"}
ITEM = {
    "type": "object",
    "required": ["label"],
    "additionalProperties": False,
    "properties": {
        "label": TEXT,
        "url": TEXT,
        "anchorTarget": {"enum": ["_self", "_blank", "_parent", "_top"]},
    },
}
GROUP = {
    "type": "object",
    "required": ["label", "items"],
    "additionalProperties": False,
    "properties": {"label": TEXT, "items": {"type": "array", "minItems": 1, "items": ITEM}},
}
LINK = {
    "type": "object",
    "required": ["type", "url", "text"],
    "additionalProperties": False,
    "properties": {"type": {"enum": ["process", "tags", "logs", "traces"]}, "key": TEXT, "url": TEXT, "text": TEXT},
}
CONFIGURATION: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "archiveEnabled": FLAG,
        "criticalPathEnabled": FLAG,
        "dependencies": {"type": "object"},
        "menu": {"type": "array", "items": {"anyOf": [GROUP, ITEM]}},
        "search": {"type": "object"},
        "topTagPrefixes": {"type": "array", "items": TEXT},
        "linkPatterns": {"type": "array", "items": LINK},
        "monitor": {"type": "object"},
        "tracking": {"type": "object"},
        "traceIdDisplayLength": {"type": "integer", "minimum": 1},
        "themes": {"type": "object"},
        "useOpenTelemetryTerms": FLAG,
    },
}
"""The part of the UI's ``Config`` (its ``types/config.ts``) that JSON can say, in 2.9 and in its head of 2026."""


def generated() -> Any:
    spec = importlib.util.spec_from_file_location("jaeger_generate", JAEGER / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def searches() -> dict[str, dict[str, str]]:
    """Each saved search by its label."""
    return {
        each["label"]: {key: value for key, (value,) in parse_qs(urlsplit(each["url"]).query).items()}
        for group in UI["menu"]
        for each in group["items"]
        if each["url"].startswith("/search?")
    }


def test_the_ui_takes_it() -> None:
    jsonschema.validate(UI, CONFIGURATION)


@pytest.mark.parametrize(
    "change",
    [{"topTags": ["a"]}, {"topTagPrefixes": "a"}, {"menu": [{"url": "/"}]}, {"menu": [{"label": "a", "items": [{}]}]}],
)
def test_the_schema_refuses(change: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(UI | change, CONFIGURATION)


def test_the_file_is_what_the_generator_writes() -> None:
    """Run ``python examples/jaeger/generate.py`` after a change to it."""
    assert (JAEGER / "ui.json").read_text(encoding="utf-8") == generated().text("llmtrace-demo")


def test_another_service() -> None:
    assert "service=my+app%26co&" in generated().text("my app&co")


def test_each_cause_has_its_search() -> None:
    causes = (*CAUSES, *TOLD_CAUSES)
    asked = {label: json.loads(query["tags"]) for label, query in searches().items() if label in causes}
    assert asked == {cause: {names.CAUSE: cause} for cause in causes}


def test_searches_ask_for_what_there_is() -> None:
    """Jaeger compares tags as texts, and finds nothing for an array or without a service."""
    for label, query in searches().items():
        assert set(query) <= {"service", "operation", "tags", "lookback", "limit", "minDuration", "maxDuration"}, label
        assert query["service"] == "llmtrace-demo"
        tags = json.loads(query["tags"])
        assert set(tags) <= NAMES | {"error"}, label
        assert names.DIAGNOSIS not in tags, "an array"
        assert all(isinstance(value, str) for value in tags.values())
        assert query.get("operation", names.ATTEMPT) in SPANS
        assert re.fullmatch(r"\d+ms", query.get("minDuration", "1ms"))


def test_the_tags_on_top_are_ours_and_begin_with_the_verdict() -> None:
    top = UI["topTagPrefixes"]
    assert top[:3] == [names.CAUSE, names.OUTCOME, names.TTFT]
    assert all(any(name == each or name.startswith(each + ".") for name in NAMES) for each in top)
    (link,) = UI["linkPatterns"]
    assert link["key"] in NAMES


def test_compose_mounts_it() -> None:
    (service,) = yaml.safe_load((JAEGER / "compose.yaml").read_text())["services"].values()
    (path,) = [volume.split(":")[1] for volume in service["volumes"] if volume.startswith("./ui.json:")]
    assert service["command"] == [f"--set=extensions.jaeger_query.ui.config_file={path}"]
