"""``python -m tests.e2e.frameworks [langchain dspy ...]``: frameworks, bare and traced, into docs/frameworks.md.

Each framework gets an environment of its own and runs its program against a scripted provider three times: bare, under
``llmtrace run``, and in code beside the framework's own instrumentation. What it gave back must be the same, and what
it sent too; each answer must have its one span, with its tokens. Exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.frameworks import page, seen
from tests.e2e.frameworks.environments import prepare, versions
from tests.e2e.frameworks.provider import Answer, Provider
from tests.e2e.frameworks.table import FRAMEWORKS, Framework

PROGRAMS = Path(__file__).parent / "programs"
PATIENCE = 600
"""s, for one run."""


@dataclass
class Run:
    """One run of a framework's program."""

    given: dict[str, Any]
    """What each case gave back."""
    answers: list[Answer]
    spans: list[seen.Span]
    log: str


@dataclass
class Result:
    """What came of one framework."""

    framework: Framework
    versions: dict[str, str] = field(default_factory=dict)
    bare: Run | None = None
    traced: Run | None = None
    both: Run | None = None
    faults: list[str] = field(default_factory=list)


class Failed(Exception):
    """A run did not come to its end."""


def run(framework: Framework, python: Path, how: str, folder: Path) -> Run:
    """Run the program ``how``: bare, traced, both."""
    out, file, log = folder / f"{how}.json", folder / f"{how}.spans.jsonl", folder / f"{how}.log"
    provider = Provider(framework.text)
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LLMTRACE_E2E")}
    env |= {"FRAMEWORK_URL": provider.url, "FRAMEWORK_OUT": str(out), "HOME": str(folder), "OTEL_SDK_DISABLED": "false"}
    # A proxy's or a hub's address is not to be asked for by any of them.
    env |= {"PATH": f"{python.parent}:{env['PATH']}", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_OFFLINE": "1"}
    command = [str(python), str(PROGRAMS / framework.program)]
    if how == "traced":
        command = [str(python.parent / "llmtrace"), "run", "--file", str(file), "--", *command]
    elif how == "both":
        env["FRAMEWORK_SPANS"] = str(file)
    try:
        with log.open("w") as written:
            done = subprocess.run(
                command, env=env, cwd=folder, stdout=written, stderr=subprocess.STDOUT, timeout=PATIENCE, check=False
            )
    finally:
        provider.close()
    if done.returncode or not out.exists():
        raise Failed(f"{how}: exit {done.returncode}\n{log.read_text()[-3000:]}")
    return Run(json.loads(out.read_text()), provider.answers, seen.read(file), log.read_text())


def look(framework: Framework, folder: Path) -> Result:
    """Everything about one framework."""
    result = Result(framework)
    try:
        python = prepare(framework)
        result.versions = versions(python, framework.shown)
        result.bare = run(framework, python, "bare", folder)
        result.traced = run(framework, python, "traced", folder)
        result.faults += compare(result.bare, result.traced, "traced")
        result.faults += seen.faults(result.traced.spans, result.traced.answers, framework.hops)
        if framework.own:
            result.both = run(framework, python, "both", folder)
            result.faults += compare(result.bare, result.both, "beside its own")
    except (Failed, subprocess.SubprocessError) as error:
        result.faults.append(str(error))
    return result


def compare(bare: Run, other: Run, how: str) -> list[str]:
    """Where ``other`` gave back or sent something else than the bare run, or says more in its log."""
    wrong: list[str] = []
    for case in bare.given:
        if bare.given[case] != other.given.get(case):
            wrong.append(f"{how}: {case} gave {other.given.get(case)}, not {bare.given[case]}")
    if [_same(each) for each in bare.answers] != [_same(each) for each in other.answers]:
        wrong.append(f"{how}: other requests were sent")
    said = [line for line in other.log.splitlines() if "llmtrace" in line and "spans go into" not in line]
    wrong += [f"{how}: its log says {line}" for line in said]
    return wrong


def _same(answer: Answer) -> tuple[str, str]:
    """A request without what differs each time."""
    body = json.dumps(answer.body, sort_keys=True)
    body = re.sub(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}", "UUID", body)
    return answer.id, re.sub(r"/tmp/\S+", "PATH", body)


def main() -> None:
    """Run what is asked for, tell it, write the page."""
    known = {framework.name: framework for framework in FRAMEWORKS}
    parser = argparse.ArgumentParser(prog="tests.e2e.frameworks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(known)}")
    parser.add_argument("--keep", type=Path, help="a folder that keeps what each run wrote")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in known]:
        parser.error(f"no such framework: {', '.join(unknown)}")
    failed = False
    for name in arguments.names or known:
        with tempfile.TemporaryDirectory() as temporary:
            folder = (arguments.keep / name if arguments.keep else Path(temporary)).resolve()
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.glob("*.spans.jsonl"):
                old.unlink()
            result = look(known[name], folder)
        failed |= bool(result.faults)
        print(f"{name} {result.versions}: {'; '.join(result.faults) or 'well'}", flush=True)
        page.record(result)
    sys.exit(failed)


if __name__ == "__main__":
    main()
