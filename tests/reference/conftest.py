"""One tiny model and one server for all tests of the reference runner."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import openai
import pytest
import uvicorn
from starlette.applications import Starlette

from llmtrace import listening
from llmtrace.reference import LoadedModel, ServerProcess, build_or_load
from llmtrace.reference.tiny import TinySpec, build_tiny
from tests.support.late import Late
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    import torch
else:
    torch = Late("torch")

MODEL = "llmtrace-tiny"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Torch's threads spin: with more of them than free cores, a test takes ten times as long."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def loaded() -> LoadedModel:
    """The tiny model as users get it; built by the first test run on a machine, then kept in the user's cache."""
    return build_or_load(device="cpu")


SMALL = TinySpec(hidden=64, intermediate=96, layers=2, heads=2, kv_heads=1, frozen_layers=1, steps=2, context=512)


@pytest.fixture(scope="session")
def small_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a much smaller one, hardly fitted, for tests of mechanics."""
    path = tmp_path_factory.mktemp("models") / "small"
    build_tiny(path, spec=SMALL)
    return path


@pytest.fixture(scope="session")
def small(small_path: Path) -> LoadedModel:
    """That one, loaded."""
    return build_or_load(small_path, device="cpu")


@contextlib.contextmanager
def in_process(app: Starlette) -> Iterator[str]:
    """The application in a thread of this process, behind a real socket; its URL for a client."""
    with contextlib.closing(listening.bind("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            wait_for(lambda: server.started)
            yield listening.url("127.0.0.1", listener) + "/v1"
        finally:
            server.should_exit = True
            thread.join(30)


@pytest.fixture(scope="session")
def server(loaded: LoadedModel) -> Iterator[ServerProcess]:
    """A server with one slot and a short queue, in its own process; no telemetry of its own."""
    quiet: dict[str, str | None] = {"OTEL_EXPORTER_OTLP_ENDPOINT": None, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": None}
    with ServerProcess(device="cpu", max_running=1, max_queue=6, faults=True, env=quiet) as running:
        yield running


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.base_url, api_key="unused", max_retries=0, timeout=60) as made:
        yield made


@pytest.fixture
def empty_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "nothing"
    folder.mkdir()
    return folder
