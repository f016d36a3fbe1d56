"""Writes the dashboards and the rules: ``python examples/grafana/generate.py``."""

from __future__ import annotations

import json
from pathlib import Path

from causes import CAUSES
from latency import LATENCY
from parts import DURATION, Panel, names_variable, variable
from rules import ALERTS, RECORDING
from server import SERVER, instances

HERE = Path(__file__).parent


def calls() -> list[Panel]:
    """The choices of the pages about calls."""
    return [
        names_variable(),
        variable("service", f"label_values({DURATION}_count, job)"),
        variable("model", f"label_values({DURATION}_count, gen_ai_request_model)"),
    ]


def dashboard(uid: str, title: str, panels: list[Panel], choices: list[Panel]) -> Panel:
    """A page; panels are laid out two to a row unless they are wider."""
    x = y = high = 0
    for i, each in enumerate(panels, 1):
        if x + each["gridPos"]["w"] > 24:
            x, y = 0, y + high
        each["id"] = i
        each["gridPos"] |= {"x": x, "y": y}
        x, high = x + each["gridPos"]["w"], each["gridPos"]["h"]
    return {
        "uid": uid,
        "title": title,
        "tags": ["llmtrace"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": choices},
        "panels": panels,
    }


PAGES = {
    "latency": dashboard("llmtrace-latency", "LLM calls: where the time goes", LATENCY, calls()),
    "causes": dashboard("llmtrace-causes", "LLM calls: causes, cache, cancellations, retries", CAUSES, calls()),
    "server": dashboard("llmtrace-server", "Reference server: busy against allocated", SERVER, [instances()]),
}
RULES = {
    "alerts.yaml": {"groups": [{"name": "llmtrace", "interval": "1m", "rules": ALERTS}]},
    "rules.yaml": {"groups": [{"name": "llmtrace-objectives", "interval": "1m", "rules": RECORDING}]},
}


def files() -> dict[Path, str]:
    """What is written where. JSON is YAML, so the rules need no library."""
    pages = {HERE / "dashboards" / f"{name}.json": page for name, page in PAGES.items()}
    rules = {HERE / name: groups for name, groups in RULES.items()}
    return {path: json.dumps(body, indent=1) + "\n" for path, body in (pages | rules).items()}


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(HERE))
