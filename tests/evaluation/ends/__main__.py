"""Runs every case of tests/support/ends.py, and writes the page if all of them came out as it says.

``make ends ARGS="python3.10 python3.13"`` runs them on other Pythons too; ``ARGS=--only=celery`` runs some, and writes
nothing. Celery, gunicorn and uvicorn are installed into .venvs/ends. What needs Redis runs where there is a
``redis-server``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from tests.evaluation.common import freshness, provenance
from tests.evaluation.common.pages import write_section
from tests.evaluation.common.places import ROOT
from tests.evaluation.ends.table import PAGE, SECTION, table
from tests.support.ends import ALL, CASES, MODES, Case, exit_code, left

SLOW = ("process_fork", "celery_cold", "celery_busy_cold", "celery_redis_warm", "celery_redis_busy_cold")
"""Cases in which a backend that answers after two seconds must be waited for."""
VENVS = ROOT / ".venvs"
NEEDS = ["celery[redis]>=5.4", "gunicorn", "uvicorn"]
VERSIONS = """
import platform
from importlib.metadata import version
names = ("opentelemetry-sdk", "openai", "celery", "gunicorn", "uvicorn")
print(f"Python {platform.python_version()},", ", ".join(f"{name} {version(name)}" for name in names))
"""


def environment(python: str) -> str:
    """An environment for ``python`` with all that the cases need; its interpreter."""
    version = _printed(python, "import sys; print('%d.%d' % sys.version_info[:2])")
    own = VENVS / ("ends" if python == sys.executable else f"ends-{version}")
    made = str(own / "bin" / "python")
    if not (own / ".installed").exists():
        subprocess.run([python, "-m", "venv", str(own)], check=True)
        needs = ["--editable", f"{ROOT}[openai]", *NEEDS]
        subprocess.run([made, "-m", "pip", "install", "--quiet", *needs], check=True, cwd=ROOT)
        (own / ".installed").touch()
    return made


def _printed(python: str, program: str) -> str:
    return subprocess.run([python, "-c", program], check=True, capture_output=True, text=True).stdout.strip()


@contextlib.contextmanager
def redis() -> Iterator[str]:
    """A broker with an event loop, with which Celery's pool is another one than with the broker in memory."""
    server = shutil.which("redis-server")
    if server is None:
        yield ""
        return
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    flags = ["--port", str(port), "--save", "", "--bind", "127.0.0.1"]
    process = subprocess.Popen([server, *flags], cwd=tempfile.gettempdir(), stdout=subprocess.DEVNULL)
    try:
        time.sleep(1.0)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()


class Cell(NamedTuple):
    """One case in one mode, and after how many seconds the backend takes spans."""

    case: Case
    mode: str
    late: float = 0.0

    def run(self, python: str, broker: str) -> str:
        """What is wrong with it; nothing where all is as expected."""
        case, mode = self.case, self.mode
        title = f"{case.name}, set up in the {case.provider}, {mode}{', late' * bool(self.late)}"
        try:
            arrived = left(case.name, mode, case.provider, late=self.late, python=python, broker=broker)
        except AssertionError as error:
            return f"{title}: {str(error)[-500:]}"
        calls = case.expected(mode)
        expected = [(int(case.plain if mode == "plain" else bool(calls)), calls)]
        if case.race and mode == "hooks":
            expected.append((1, ALL))
        if arrived.of() in expected and exit_code(case.name) in (None, arrived.code):
            return ""
        return f"{title}: {arrived._replace(log=arrived.log[-500:])}"


def run(cases: Sequence[Case], modes: Sequence[str], python: str, broker: str) -> tuple[str, list[str]]:
    """Run ``cases`` in ``modes``; in words what was run, and what came out wrong."""
    cells = [Cell(case, mode) for case in cases for mode in modes]
    cells += [Cell(case, "sigterm", 2.0) for case in cases if case.name in SLOW and case.provider == "parent"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        wrong = [told for told in pool.map(partial(Cell.run, python=python, broker=broker), cells) if told]
    return f"{_printed(python, VERSIONS)}: {len(cells) - len(wrong)} of {len(cells)} cells as the table says", wrong


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="make ends", description=__doc__.partition("\n")[0])
    parser.add_argument("pythons", nargs="*", help="other interpreters to run the cases on as well")
    parser.add_argument("--only", default="", help="run the cases whose names begin so, and write nothing")
    asked = parser.parse_args()
    where = provenance.machine(provenance.make_command("ends"), time.time(), provenance.load_average())
    commands: list[str] = []
    wrong: list[str] = []
    with redis() as broker:
        cases = [case for case in CASES if (broker or "redis" not in case.name) and case.name.startswith(asked.only)]
        for python in [sys.executable, *(shutil.which(each) or each for each in asked.pythons)]:
            modes = MODES if python == sys.executable else MODES[1:]
            told, bad = run(cases, modes, environment(python), broker)
            print(told, *bad, sep="\n", flush=True)
            commands.append(f"- {told}")
            wrong += bad
    if not wrong and len(cases) == len(CASES):
        lines = [*freshness.stamp("ends", where["commit"]), *table(), "", provenance.sentence(where), "", *commands]
        write_section(PAGE, SECTION, lines)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
