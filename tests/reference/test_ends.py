"""How the server ends, and what it says once it can do nothing more: in processes of its own, and by its health."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from llmtrace import interpreter
from llmtrace.reference import LoadedModel, create_app
from tests.reference.conftest import in_process
from tests.support.waiting import PATIENCE

STUCK = """
import sys, threading
from llmtrace.reference import engine, server

compute = engine.Engine.compute

def never(self, mark):
    if self.served:
        threading.Event().wait()
    return compute(self, mark)

def ready(base_url):
    engine.Engine.served = True
    print(base_url, flush=True)

engine.Engine.served, engine.Engine.compute = False, never
server.serve(sys.argv[1], device="cpu", port=0, grace=2.0, ready=ready)
"""
SERVED = """
import sys
from llmtrace.reference import server
server.serve(sys.argv[1], device="cpu", port=0, grace=2.0, ready=lambda base_url: print(base_url, flush=True))
"""


@contextmanager
def served(program: str, model: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[str], openai.OpenAI]]:
    """A server in a process of its own, by this program, and a client of it."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(model)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=interpreter.environ() | environment,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        base_url = process.stdout.readline().strip() + "/v1"
        with openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0, timeout=PATIENCE) as client:
            yield process, client
    finally:
        process.kill()
        process.communicate()


OVER = "the grace is over: ended what still ran"


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The code that the server ends with, and its last words."""
    _, said = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in said
    return process.returncode, said.splitlines()[-1]


def ask(client: openai.OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(
        model="small", messages=[{"role": "user", "content": "x"}], max_tokens=400, **options
    )


def test_a_step_that_never_ends_keeps_no_server_from_ending(small_path: Path) -> None:
    with served(STUCK, small_path) as (process, client):
        stream = ask(client, stream=True)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.APIError, match="the server is stopping") as caught:
            list(stream)
        assert caught.value.code == "stopping"
        assert ended(process) == (0, OVER)


def test_nor_does_a_collector_that_does_not_answer(small_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        patient = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_TIMEOUT": "600"}
        with served(SERVED, small_path, **patient) as (process, client):
            ask(client, extra_body={"ignore_eos": True})
            process.send_signal(signal.SIGTERM)
            assert ended(process) == (0, OVER)


def test_health_tells_that_the_models_thread_has_died(small: LoadedModel) -> None:
    app = create_app(small)
    scheduler = app.state.scheduler

    def dies() -> None:
        raise SystemExit

    with in_process(app) as base_url, openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0) as client:
        assert health(base_url) == (200, "ok")
        scheduler._drop_cancelled = dies
        with pytest.raises(openai.APIStatusError) as caught:
            ask(client)
        assert caught.value.status_code == 500
        with pytest.raises(openai.APIStatusError) as caught:
            ask(client)
        assert (caught.value.status_code, caught.value.code) == (503, "broken")
        assert health(base_url) == (503, "the model's thread has died: restart the server")


def test_health_tells_that_the_device_has_failed(small: LoadedModel) -> None:
    app = create_app(small)

    def asserts(*_: object) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA`")

    with in_process(app) as base_url, openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0) as client:
        app.state.scheduler.runner._engine._processor.model_runner.compute_batch = asserts
        for status in (500, 503):
            with pytest.raises(openai.APIStatusError) as caught:
                ask(client)
            assert caught.value.status_code == status
        status, says = health(base_url)
        assert status == 503
        assert says.startswith("the device has failed: restart the server (RuntimeError: CUDA error: device-side")


def health(base_url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(base_url.removesuffix("/v1") + "/health") as answer:
            return answer.status, json.load(answer)["status"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)["status"]
