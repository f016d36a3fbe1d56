"""The real servers of the diagnosis runs: started when first asked for, kept for all sessions, started anew if dead."""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import openai
import pytest

from llmtrace.reference.process import ServerProcess
from llmtrace.reference.tiny import TINY_NAME, TinySpec, build_tiny, cache_root
from tests.e2e.servers import answers, vllm_server
from tests.evaluation.diagnosis.injections import OTHER, SLOTS, Site, Target
from tests.evaluation.diagnosis.plan import FIRST, SECOND, VLLM

_LAYERS = 8
"""Of the second server's model: twice the first one's."""
_CACHED = 2000
"""Prompt tokens that the second server's prefix cache has room for: a route's own, and little more."""
_BYTES_PER_TOKEN = 8192
"""Of that model: layers x heads x 64 x 4 bytes, keys and values."""
_VLLM = "llmtrace-vllm"
_PROMPT = 1000


@dataclass
class _Up:
    target: Target
    folder: Path | None


class Servers:
    """The servers that are up, by name."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._up: dict[str, _Up] = {}
        self._starts: dict[str, Callable[[], _Up]] = {FIRST: self._first, SECOND: self._second, VLLM: self._vllm}

    def __enter__(self) -> Servers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def site(self, name: str, draw: random.Random) -> tuple[Site, Target]:
        """What a session to this server can make use of, and the server. The reference servers are always there: a
        changed route leads to them.

        Raises:
            RuntimeError: one did not start.
        """
        for each in (FIRST, SECOND, name):
            self._running(each)
        site = Site({each: up.target for each, up in self._up.items()}, self._up[name].target.model, draw)
        for up in self._up.values():
            if not up.target.words_per_token:
                _measure(site, up.target)
        return site, self._up[name].target

    def last_words(self, name: str) -> str:
        """The errors in the log of a server that has one."""
        up = self._up.get(name)
        if up is None or up.folder is None:
            return ""
        lines = (up.folder / "server.log").read_text(errors="replace").splitlines()
        return "\n".join([line for line in lines if "Error" in line][-3:])

    def _running(self, name: str) -> None:
        up = self._up.get(name)
        if up is None or not answers(f"{up.target.url}/health"):
            self._up[name] = self._starts[name]()

    def _enter(self, server: AbstractContextManager[Any]) -> Any:
        try:
            return self._open.enter_context(server)
        except (pytest.fail.Exception, pytest.skip.Exception) as error:
            raise RuntimeError(f"it did not start: {error}") from None

    def _reference(self, model: Path | None, name: str, *arguments: str) -> _Up:
        server = self._enter(ServerProcess(model, max_running=SLOTS, faults=True, arguments=arguments))
        names = [str(each["id"]) for each in json.loads(server.get("/v1/models"))["data"]]
        assert name in names, names
        return _Up(Target(server.root_url, name), None)

    def _first(self) -> _Up:
        return self._reference(None, TINY_NAME)

    def _second(self) -> _Up:
        # The folder's name is the model's. Building it takes a quarter of a minute: it is kept.
        model = cache_root() / "diagnosis" / OTHER
        if not model.is_dir():
            build_tiny(model, spec=TinySpec(layers=_LAYERS, frozen_layers=_LAYERS - 1, seed=1))
        return self._reference(model, OTHER, "--prefix-cache-bytes", str(_CACHED * _BYTES_PER_TOKEN))

    def _vllm(self) -> _Up:
        folder = Path(self._enter(tempfile.TemporaryDirectory(prefix="llmtrace-reality-")))
        flags = ("--max-num-seqs", str(SLOTS), "--max-model-len", "4096", "--served-model-name", _VLLM)
        # The address that empties its prefix cache is there for developers only.
        engine = self._enter(vllm_server(folder, *flags, env={**os.environ, "VLLM_SERVER_DEV_MODE": "1"}))
        return _Up(Target(engine.url, _VLLM, reference=False), folder)


def _measure(here: Site, target: Target) -> None:
    """How many of these words make one of the server's tokens."""
    target.words_per_token = 0.25
    text = here.text(_PROMPT, target)
    with openai.OpenAI(base_url=f"{target.url}/v1", api_key="unused") as client:
        asked = client.completions.create(model=target.model, prompt=text, max_tokens=1)
    assert asked.usage is not None
    target.words_per_token = len(text.split()) / asked.usage.prompt_tokens
