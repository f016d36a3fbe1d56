"""Against other people's engines and viewers, in virtual environments of their own: only run where it is asked for.

LLMTRACE_E2E=1 turns these tests on; ``setup.sh`` makes what they need. An engine that is not installed skips its file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import servers

if os.environ.get("LLMTRACE_E2E") != "1":
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def llama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """llama.cpp's own server with the tiny model: two slots, so that a third caller has to wait."""
    with servers.llama_server(tmp_path_factory.mktemp("llama")) as server:
        yield server


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """vLLM on the CPU with its per-request timings and cached token counts switched on."""
    with servers.vllm_server(tmp_path_factory.mktemp("vllm")) as server:
        yield server


@pytest.fixture(scope="session")
def phoenix_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """Arize Phoenix with an empty database."""
    with servers.phoenix_server(tmp_path_factory.mktemp("phoenix")) as server:
        yield server


@pytest.fixture
def e2e_output() -> Path | None:
    """Where a run leaves what a person should look at (LLMTRACE_E2E_OUT), None where nobody asked for it."""
    out = os.environ.get("LLMTRACE_E2E_OUT")
    if not out:
        return None
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
