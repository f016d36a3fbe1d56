"""Starts the server: the port first, then the model, then the loop. `python -m llmtrace.reference.server --help`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Collection, Generator
from pathlib import Path
from typing import Any

from llmtrace import listening
from llmtrace.reference._errors import RunnerError, missing_extra
from llmtrace.reference.adapters import parse_adapters
from llmtrace.reference.tiny import Progress

__all__ = ["DEFAULT_GRACE", "main", "serve"]

DEFAULT_GRACE = 3.0
_CLOSING = 2.0
"""Seconds of the grace that are kept for the last events, closing connections, exporting spans and leaving."""
_STEP = 0.2
"""Seconds of these in which the step that is under way may end before its requests are told that they are over."""
_NOTICED = 0.15
"""Seconds within which uvicorn notices that it was told to end."""


def serve(
    model: str | os.PathLike[str] | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8101,
    device: str = "auto",
    dtype: str = "auto",
    max_running: int | None = None,
    max_queue: int = 64,
    faults: bool = False,
    log_level: str = "warning",
    ready: Callable[[str], None] | None = None,
    progress: Progress | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    name: str | None = None,
    threads: int | None = None,
    allow_hosts: Collection[str] = (),
    grace: float = DEFAULT_GRACE,
    **app_options: Any,
) -> None:
    """Serve until SIGINT or SIGTERM.

    `ready(base_url)` is called once requests are taken; without it a line says so on stderr. Port 0 takes a free one.
    `threads` is torch's thread count on the CPU (default: half of the cores, so that clients on this machine get
    theirs). `allow_hosts`: host names that the server goes by beside its addresses. `grace`: s from the signal to the
    end (2 at least); what runs may go on meanwhile, and is ended with an error. Where something still holds it up
    then, a step of the model or an exporter, the process ends all the same, with 0. `max_running` (default: the
    runner's `DEFAULT_RUNNING`) and `app_options` go to `create_app`. Raises `RunnerError` for everything that the
    caller can mend.
    """
    try:
        import uvicorn

        from llmtrace.reference.app import create_app
        from llmtrace.reference.model import build_or_load, pick_device, require_model
    except ImportError as error:
        raise missing_extra(error) from error
    if model is not None:
        require_model(model)  # before torch is imported, which takes seconds
    with contextlib.closing(listening.bind(host, port, RunnerError)) as listener:
        target = pick_device(device)
        import torch

        torch.set_num_threads(threads or max(1, (os.cpu_count() or 2) // 2))
        if ready is None:
            print(f"loading {model or 'the tiny model'} on {target}", file=sys.stderr, flush=True)
        loaded = build_or_load(
            model, device=target, dtype=dtype, cache_dir=cache_dir, progress=progress or _ticker(), name=name
        )
        if ready is None:
            print(f"loaded in {loaded.load_seconds:.1f} s; making room and warming up", file=sys.stderr, flush=True)
        if max_running is not None:
            app_options["max_running"] = max_running
        loopback = listening.is_loopback(host)
        app = create_app(
            loaded,
            max_queue=max_queue,
            faults=faults,
            names=(*allow_hosts, *(() if loopback else (socket.gethostname(),))),
            loopback=loopback,
            grace=max(0.0, grace - _CLOSING),
            loading=loaded.loading,
            **app_options,
        )
        base_url = listening.url(host, listener)
        end = threading.Timer(max(grace, _CLOSING) - _NOTICED, _leave)
        end.daemon = True

        class Server(uvicorn.Server):
            """Tells when it is ready; ends open streams before it waits for them."""

            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets=sockets)
                if self.started:
                    (ready or _say_ready(loaded.name, loaded.device, loaded.dtype))(base_url)

            async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
                if threading.current_thread() is threading.main_thread():
                    end.start()
                await asyncio.to_thread(app.state.scheduler.stop, _STEP, grace=max(0.0, grace - _CLOSING))
                await super().shutdown(sockets=sockets)

            @contextlib.contextmanager
            def capture_signals(self) -> Generator[None, None, None]:
                """As uvicorn does it, but without raising the signal once more: who ends as asked exits with 0."""
                if threading.current_thread() is not threading.main_thread():
                    yield
                    return
                asked = (signal.SIGINT, signal.SIGTERM)
                before = [signal.signal(each, self.handle_exit) for each in asked]
                try:
                    yield
                finally:
                    for each, handler in zip(asked, before, strict=True):
                        signal.signal(each, handler)

        if faults:
            logging.getLogger("uvicorn.error").addFilter(_expected_drops)
        config = uvicorn.Config(
            app, log_level=log_level, access_log=False, timeout_graceful_shutdown=1, lifespan="on", server_header=False
        )
        with contextlib.suppress(KeyboardInterrupt):
            Server(config).run(sockets=[listener])
        if end.is_alive() and app.state.scheduler.stuck:
            _leave()  # the interpreter cannot end a thread in the middle of a step, and would die of it
        end.cancel()


def _leave() -> None:
    """End this process as it is."""
    print("the grace is over: ended what still ran", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(0)


def _say_ready(name: str, device: str, dtype: str) -> Callable[[str], None]:
    def say(base_url: str) -> None:
        print(f"serving {name} ({dtype} on {device}) at {base_url}/v1", file=sys.stderr, flush=True)

    return say


def _ticker() -> Progress | None:
    """Progress of the first build on stderr: a moving line on a terminal, else one line at the start."""

    def tick(done: int, total: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == total else ""
            print(f"\rbuilding the tiny model, once: {done}/{total}", end=end, file=sys.stderr, flush=True)
        elif done == 1:
            print("building the tiny model, once (some seconds)", file=sys.stderr, flush=True)

    return tick


def _expected_drops(record: logging.LogRecord) -> bool:
    return "without completing response" not in record.getMessage()


def main(arguments: list[str] | None = None) -> int:
    """The server as a process of its own, for `ServerProcess`; people use `llmtrace serve`."""
    parser = argparse.ArgumentParser(prog="python -m llmtrace.reference.server", description=serve.__doc__)
    parser.add_argument("--model")
    parser.add_argument("--name")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8101)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--max-running", type=int)
    parser.add_argument("--max-queue", type=int, default=64)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--faults", action="store_true")
    parser.add_argument("--run-on", action="store_true")
    parser.add_argument("--log-level", default="warning")
    parser.add_argument("--cache-dir")
    parser.add_argument("--block-size", type=int)
    parser.add_argument("--prefix-cache-bytes", type=int)
    parser.add_argument("--prefix-cache-ttl", type=float)
    parser.add_argument("--prefill-chunk", type=int)
    parser.add_argument("--token-budget", type=int)
    parser.add_argument("--cache-tokens", type=int)
    parser.add_argument("--chunk-spans", action="store_true")
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--merge-adapters", action="store_true")
    parser.add_argument("--allow-host", action="append", default=[], dest="allow_hosts", metavar="NAME")
    parser.add_argument("--grace", type=float)
    parser.add_argument("--state-file", help="told in JSON what goes on: building, ready")
    options = vars(parser.parse_args(arguments))
    state, adapters = options.pop("state_file"), options.pop("adapter")
    arguments_given = {key: value for key, value in options.items() if value is not None}
    if state is not None:
        state_file = _StateFile(Path(state))
        arguments_given |= {"ready": state_file.ready, "progress": state_file.progress}
    try:
        serve(arguments_given.pop("model", None), adapters=parse_adapters(adapters), **arguments_given)
    except RunnerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


class _StateFile:
    """The file from which a parent process reads this one's progress; every write replaces it as a whole."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def progress(self, done: int, total: int) -> None:
        self._write({"state": "building", "done": done, "total": total})

    def ready(self, base_url: str) -> None:
        self._write({"state": "ready", "base_url": base_url, "pid": os.getpid()})

    def _write(self, state: dict[str, Any]) -> None:
        scratch = self._path.with_suffix(".new")
        scratch.write_text(json.dumps(state))
        os.replace(scratch, self._path)


if __name__ == "__main__":
    sys.exit(main())
