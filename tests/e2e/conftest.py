"""Against other people's engines and viewers, in virtual environments of their own: only run where it is asked for.

LLMTRACE_E2E=1 turns these tests on; ``setup.sh`` makes what they need. An engine that is not installed skips its file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.e2e import servers
from tests.e2e.collector import Collector, collecting

if os.environ.get("LLMTRACE_E2E") != "1":
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def llama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """llama.cpp's own server with the tiny model: two slots, so that a third caller has to wait."""
    with servers.llama_server(tmp_path_factory.mktemp("llama")) as server:
        yield server


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Receives the spans that an engine exports by itself."""
    with collecting() as received:
        yield received


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[servers.Server]:
    """vLLM on the CPU, two slots, with its per-request timings, cached token counts and own spans switched on."""
    tell = {"OTEL_SERVICE_NAME": "vllm", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}
    flags = ("--max-num-seqs", "2", "--otlp-traces-endpoint", f"{collector.url}/v1/traces")
    with servers.vllm_server(tmp_path_factory.mktemp("vllm"), *flags, env=tell) as server:
        yield server


@pytest.fixture(scope="session")
def phoenix_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """Arize Phoenix with an empty database."""
    with servers.phoenix_server(tmp_path_factory.mktemp("phoenix")) as server:
        yield server


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """MLflow with an empty database."""
    with servers.mlflow_server(tmp_path_factory.mktemp("mlflow")) as server:
        yield server
