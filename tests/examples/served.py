"""The reference server's metrics after real requests, by which the page about it is checked: no HTTP, a small model."""

from __future__ import annotations

import http.server
import threading
from pathlib import Path

from llmtrace.observe.clock import now
from llmtrace.reference import build_or_load
from llmtrace.reference.adapters import Adapters
from llmtrace.reference.prefix_cache import PrefixCache
from llmtrace.reference.prometheus import CONTENT_TYPE, render
from llmtrace.reference.runner import Piece, Request, Runner
from llmtrace.reference.sampling import Sampling
from llmtrace.reference.scheduler import Job, Result, Scheduler
from llmtrace.reference.timings import Timings
from llmtrace.reference.tiny import TinySpec, build_tiny
from llmtrace.reference.tiny_adapter import build_tiny_adapter
from tests.support.waiting import PATIENCE

SPEC = TinySpec(hidden=64, intermediate=96, layers=2, heads=2, kv_heads=1, frozen_layers=1, steps=2, context=512)


class Served:
    """A scheduler over a small model with an adapter; `text` is what its `/metrics` says."""

    def __init__(self, folder: Path) -> None:
        build_tiny(folder / "model", spec=SPEC)
        loaded = build_or_load(folder / "model", device="cpu")
        adapters = Adapters(loaded, {"tuned": build_tiny_adapter(folder / "tuned", spec=SPEC, rank=2)})
        runner = Runner(loaded, max_running=2, prefix_cache=PrefixCache(block=8), cache_tokens=64, adapters=adapters)
        self._scheduler = Scheduler(runner)
        self._scheduler.start()

    def play(self) -> None:
        """Requests that queue, hit the cache, give way to each other, and swap an adapter in."""
        for adapter in (None, None, "tuned"):
            self._ask([list(range(10, 30)), list(range(40, 60))], adapter)

    def _ask(self, prompts: list[list[int]], adapter: str | None) -> None:
        over = threading.Semaphore(0)

        def tell(news: Piece | Result) -> None:
            if isinstance(news, Result):
                over.release()

        asked = [Request(ids, 20, Sampling(0), ignore_eos=True, adapter=adapter) for ids in prompts]
        self._scheduler.submit(*(Job(request, Timings(arrived=now()), tell) for request in asked))
        for _ in prompts:
            assert over.acquire(timeout=PATIENCE)

    def text(self) -> str:
        return render(self._scheduler)

    def end(self) -> None:
        self._scheduler.stop()


def serve(served: Served) -> http.server.ThreadingHTTPServer:
    """A server of `/metrics` on a free port; the caller ends it."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = served.text().encode()
            self.send_response(200)
            self.send_header("content-type", CONTENT_TYPE)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
