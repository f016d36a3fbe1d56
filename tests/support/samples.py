"""The samples of output in README and docs, made by the commands as they are: ``make samples``.

A sample stands between ``<!-- output: llmtrace show --help -->`` and ``<!-- end -->``. Its command is run by a shell in
a folder that holds some files (and two adapters, for the command on these): ``traces.otlp.jsonl``, one call of every
kind; ``broken.otlp.jsonl``, the same with a line that is no JSON; ``demo.otlp.jsonl.gz``, what a run of the demo wrote;
``before.otlp.jsonl`` and ``after.otlp.jsonl``, an agent's requests on either side of a change.
The terminal is 80 columns wide and without colour, no variable is set that OpenTelemetry or llmtrace reads, and
whoever looks for a viewer or a collector finds none, whatever listens on this machine.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.agents import before_and_after
from tests.support.recorder import Recorder, demo_calls
from tests.support.warm import CLIENT, COMMAND, warm

ROOT = Path(__file__).parents[2]
_MARKED = re.compile(r"(<!-- output: (.+?) -->\n\n)```\n.*?\n```(\n\n<!-- end -->)", re.S)
_OURS = re.compile(r"(OTEL|LLMTRACE|OPENAI)_|PYTHON(UTF8|IOENCODING)$|(FORCE|NO)_COLOR$|COLUMNS$|LINES$")
DEMO = Path(__file__).parent / "recorded" / "demo.otlp.jsonl.gz"
DEMO_RUN = "llmtrace demo | sed '/^$/q'"
"""Runs for a minute: ``make samples`` makes it, the demo's own test holds it."""
ADAPTERS = "llmtrace bench adapters support sql | sed '/^by chance/q'"
"""Runs a model: ``make samples`` makes it, the tests of the command hold what it says."""
SLOW = (DEMO_RUN, ADAPTERS)
_ALONE = """
from llmtrace.launch import destinations

destinations.listens = lambda url: False
from llmtrace.cli import main

main()
"""
"""``llmtrace`` on a machine where nothing listens."""


def pages() -> list[Path]:
    """Every page that may have samples."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def on_pages() -> Iterator[tuple[Path, str, str]]:
    """Every sample: its page, its command, what stands there."""
    for page in pages():
        for match in _MARKED.finditer(page.read_text(encoding="utf-8")):
            block = match[0].removeprefix(match[1]).removesuffix(match[3])
            yield page, match[2], block.removeprefix("```\n").removesuffix("\n```")


def made(command: str, by_fork: bool = False) -> str:
    """What a terminal shows: the command after a prompt, and all that it prints. ``by_fork``: see ``warm``."""
    with tempfile.TemporaryDirectory() as scratch:
        file = demo_calls(Recorder()).save(Path(scratch, "traces.otlp.jsonl"))
        shutil.copy(DEMO, scratch)
        if "after.otlp" in command:
            before_and_after(Path(scratch))
        if command == ADAPTERS:
            _adapters(Path(scratch))
        Path(scratch, "broken.otlp.jsonl").write_text(file.read_text(encoding="utf-8") + '{"resourceSpans": "\n')
        started = ["-SE", "-c", CLIENT, warm(*COMMAND).address, _ALONE] if by_fork else ["-c", _ALONE]
        llmtrace = shlex.join([sys.executable, *started])
        env = {name: value for name, value in os.environ.items() if not _OURS.match(name)}
        paths = os.pathsep.join(filter(None, (str(ROOT), env.get("PYTHONPATH"))))
        done = subprocess.run(
            ["sh", "-c", f'llmtrace() {{ {llmtrace} "$@"; }}\n{command}'],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            timeout=400,
            cwd=scratch,
            env={**env, "PYTHONPATH": paths, "COLUMNS": "80", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"},
            check=False,
        )
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    prompted = [f"$ {line}" for line in command.split(" && ")]
    return "\n".join([*prompted, *lines]).rstrip()


def _adapters(folder: Path) -> None:
    """Two adapters of the tiny model that have nothing to do with each other in attention, and disagree in the rest."""
    from safetensors.torch import load_file, save_file

    from llmtrace.reference.tiny_adapter import build_tiny_adapter

    one, other = (build_tiny_adapter(folder / name, rank=8, seed=seed) for seed, name in enumerate(("support", "sql")))
    file = "adapter_model.safetensors"
    theirs, ours = load_file(one / file), load_file(other / file)
    for name, matrix in ours.items():
        if ".mlp." in name:
            sign = -1.0 if "lora_B" in name else 1.0
            ours[name] = sign * theirs[name] + 0.5 * matrix
    save_file(ours, other / file)


def shape(sample: str) -> str:
    """A sample without what differs from machine to machine: numbers and versions, and where lines are folded."""
    return " ".join(re.sub(r"\d[\d.,]*[\w+.]*", "N", sample).split())


def main() -> None:
    """Make all samples anew, or those whose command holds an argument, and put them into their pages."""
    for page in pages():
        text = page.read_text(encoding="utf-8")

        def put(match: re.Match[str]) -> str:
            command = match[2]
            if sys.argv[1:] and not any(word in command for word in sys.argv[1:]):
                return match[0]
            print(f"{page.name}: {command}", flush=True)  # noqa: B023
            return f"{match[1]}```\n{made(command)}\n```{match[3]}"

        changed = _MARKED.sub(put, text)
        if changed != text:
            page.write_text(changed, encoding="utf-8")


if __name__ == "__main__":
    main()
