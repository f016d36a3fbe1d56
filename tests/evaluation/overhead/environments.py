"""One virtual environment per package under .venvs/bench-NAME, made once and kept; what does not install is skipped."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.evaluation.common.places import ROOT
from tests.evaluation.overhead.subjects import BARE, ENVS

VENVS = ROOT / ".venvs"
INSTALL_TIMEOUT = 900
HIDDEN = ("OTEL_", "LANGFUSE_", "TRACELOOP_", "OPENINFERENCE_", "LLMTRACE_", "OPENAI_", "PYTHON")
"""Variables of the caller that would change what the subjects do."""


class NotInstalled(Exception):
    """A subject's environment could not be made; the text is the reason."""


def python(env: str) -> Path:
    """The interpreter of an environment."""
    return VENVS / f"bench-{env}" / "bin" / "python"


def surroundings(**more: str) -> dict[str, str]:
    """The environment variables of a child process: no proxies, no settings of the caller's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(HIDDEN) and not k.lower().endswith("_proxy")}
    return kept | {"PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"} | more


def prepare(say: Callable[[str], None], envs: list[str], *, fresh: bool = False) -> tuple[list[str], dict[str, str]]:
    """Make those of ``envs`` that are missing. Returns the usable ones, and the others with their reasons."""
    skipped: dict[str, str] = {}

    def one(env: str, pins: list[str]) -> None:
        wanted = ENVS[env] if env != "llmtrace" else ["--editable", str(ROOT)]
        try:
            make(env, wanted, pins, say, fresh=fresh)
        except NotInstalled as error:
            skipped[env] = str(error)

    one(BARE, [])
    if BARE in skipped:
        return [], skipped
    pins = frozen(BARE)
    pool = ThreadPoolExecutor(2)
    try:
        list(pool.map(lambda env: one(env, pins), [env for env in envs if env != BARE]))
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list(running):
            process.kill()
        raise
    pool.shutdown()
    return [env for env in envs if env not in skipped], skipped


def make(env: str, wanted: list[str], pins: list[str], say: Callable[[str], None], *, fresh: bool = False) -> None:
    """Install ``wanted`` and the pinned packages into ``env``, unless that was done before."""
    home = VENVS / f"bench-{env}"
    stamp = home / ".installed"
    recipe = hashlib.sha256(json.dumps([sys.version, wanted, pins, project(env)]).encode()).hexdigest()
    if not fresh and stamp.exists() and stamp.read_text() == recipe:
        return
    say(f"making the environment of {env} ...")
    run([sys.executable, "-m", "venv", "--clear", str(home)])
    constraints = home / "constraints.txt"
    constraints.write_text("\n".join(pins))
    run([str(python(env)), "-m", "pip", "install", "-q", "-c", str(constraints), *named(pins), *wanted])
    stamp.write_text(recipe)


def project(env: str) -> list[str]:
    """What of the checkout decides an environment: its dependencies."""
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    return [line for line in lines if ">=" in line or line.startswith("[")] if env == "llmtrace" else []


def named(pins: list[str]) -> list[str]:
    """The packages that every environment has in the bare one's version."""
    return [pin for pin in pins if pin.split("==")[0] in ("openai", "opentelemetry-sdk")]


running: set[subprocess.Popen[str]] = set()
"""The installers at work, to be ended when the command is."""


def run(command: list[str]) -> None:
    """Run a command to its end; its last lines are the reason if it fails."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    running.add(process)
    try:
        said, _ = process.communicate(timeout=INSTALL_TIMEOUT)
    except BaseException as error:
        process.kill()
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise NotInstalled(f"{command[0]} took longer than {INSTALL_TIMEOUT} s") from None
        raise
    finally:
        running.discard(process)
    if process.returncode:
        lines = said.splitlines()
        errors = [line for line in lines if line.startswith("ERROR")]
        raise NotInstalled((errors or lines or ["no reason given"])[-1])


def frozen(env: str) -> list[str]:
    """The exact versions in an environment."""
    done = subprocess.run(
        [str(python(env)), "-m", "pip", "freeze"], capture_output=True, text=True, check=True, env=surroundings()
    )
    return [line for line in done.stdout.splitlines() if "==" in line]
