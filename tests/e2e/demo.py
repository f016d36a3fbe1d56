"""``llmtrace demo`` sent to a viewer by OTLP, and what was sent, by the file that the demo writes itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmtrace.phases import model
from tests.e2e import calls
from tests.e2e.servers import ROOT, python_of

Key = tuple[str, str]
"""Trace and span id, lower-case hex."""
PHASES = set(model.PHASES)


def run_demo(out: Path, url: str, name: str, **settings: str) -> Path:
    """Run the demo into ``out``, exporting to ``url``; its output is kept under ``name`` where that was asked for."""
    command = [str(Path(sys.executable).parent / "llmtrace"), "demo", "--all", "--device", "cpu", "--out", str(out)]
    env = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": url, **settings}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    if (folder := calls.output_folder()) is not None:
        (folder / f"{name}.txt").write_text(done.stdout)
        shutil.copytree(out, folder / name, dirs_exist_ok=True)
    return out


def sent_spans(demo: Path) -> dict[Key, dict[str, Any]]:
    """The spans of the demo's own file."""
    lines = (demo / "traces.otlp.jsonl").read_text().splitlines()
    parts = [scope for line in lines for part in json.loads(line)["resourceSpans"] for scope in part["scopeSpans"]]
    return {(span["traceId"], span["spanId"]): span for scope in parts for span in scope["spans"]}


def value_of(value: Mapping[str, Any]) -> Any:
    """An OTLP/JSON attribute value."""
    ((kind, content),) = value.items()
    if kind == "intValue":
        return int(content)
    if kind == "arrayValue":
        return [value_of(item) for item in content.get("values", [])]
    return content


def is_call(span: Mapping[str, Any]) -> bool:
    """Whether a stored span is an instrumented call (and no phase, attempt or server span)."""
    return span["name"].startswith("chat ")


def photograph(venv: str, url: str, text: str, picture: Path) -> str:
    """Open a page in Chromium, wait for ``text``, keep a picture; returns what the page says."""
    script = ROOT / "tests" / "e2e" / "screenshot.py"
    command = [str(python_of(venv)), str(script), url, text, str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
