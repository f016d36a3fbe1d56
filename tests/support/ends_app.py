"""The programs at whose ends ``ends.py`` looks: ``python ends_app.py CASE``, told the rest by ``ENDS_*`` variables.

Each makes, just before it ends (or a child of it ends), a span of the application's own and four calls: a whole one, a
stream read to its end, one read in half, one never read. The batch processor would export by itself only after 30 s:
what arrives was flushed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import openai
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

E = os.environ
CASE, MODE, PROVIDER, OUT = (E.get(f"ENDS_{name}", "") for name in ("CASE", "MODE", "PROVIDER", "OUT"))
MESSAGES: Any = [{"role": "user", "content": "Hello"}]
HELD: list[Any] = []
TRACER: Any = None
PROVIDER_MADE: Any = None


class ToFile(SpanExporter):
    """Writes a line per span. Its backend answers late, if it is told so."""

    def export(self, spans: Any) -> SpanExportResult:
        time.sleep(float(E["ENDS_LATE"]))
        lines = [[s.name, s.attributes.get("gen_ai.request.model"), s.attributes.get("llmtrace.call.outcome")]
                 for s in spans]  # fmt: skip
        with open(OUT, "a") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))
        return SpanExportResult.SUCCESS


def setup() -> None:
    """OpenTelemetry, and llmtrace in the mode that is asked for: ``plain`` (none), ``hooks``, ``sigterm``."""
    global TRACER, PROVIDER_MADE
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(ToFile(), schedule_delay_millis=30_000))
    TRACER, PROVIDER_MADE = provider.get_tracer("app"), provider
    if MODE != "plain":
        import llmtrace
        from llmtrace.instrumentation import process_ends

        process_ends.PATIENCE_S = float(E["ENDS_PATIENCE"])
        llmtrace.instrument("openai", tracer_provider=provider, flush_on_sigterm=MODE == "sigterm")


def set_up_in_parent() -> None:
    if PROVIDER == "parent":
        setup()


def client() -> openai.OpenAI:
    quick = openai.DefaultHttpxClient(verify=False)  # no certificates to load
    return openai.OpenAI(base_url=E["ENDS_URL"], api_key="none", max_retries=0, timeout=60, http_client=quick)


def work(who: str = "child") -> None:
    """The span of the application's own and the four calls; ``who`` is their model's name."""
    if PROVIDER == "child" and TRACER is None:
        setup()
    create = client().chat.completions.create
    with TRACER.start_as_current_span(f"app {who}"):
        create(model=who, messages=MESSAGES)
    for _ in create(model=who, messages=MESSAGES, stream=True):
        pass
    half = create(model=who, messages=MESSAGES, stream=True)
    next(half), next(half)
    HELD.extend([half, create(model=who, messages=MESSAGES, stream=True)])


def ready() -> None:
    Path(OUT + ".ready").write_text(str(os.getpid()))


def wait() -> None:
    work()
    ready()
    time.sleep(60)


# One process


def sigterm() -> None:
    set_up_in_parent()
    wait()


def waiting() -> None:
    """The signal comes while a call waits for its whole answer."""
    set_up_in_parent()
    with TRACER.start_as_current_span("app child"):
        pass
    headers = {"x-ready": f"{OUT}.ready", "x-pid": str(os.getpid())}  # the server says when it was asked
    client().chat.completions.create(model="slow", messages=MESSAGES, extra_headers=headers)


def holding() -> None:
    """The signal comes while the main thread holds a lock that ending the open calls takes."""
    from llmtrace.instrumentation import shared

    set_up_in_parent()
    work()
    with shared._tracers[0].services.baselines._lock:
        ready()
        time.sleep(60)


def handled() -> None:
    set_up_in_parent()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    wait()


def handled_before() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    sigterm()


def chained() -> None:
    """A handler that goes on to whatever stood there before it, as those of libraries do."""
    set_up_in_parent()
    before = signal.getsignal(signal.SIGTERM)

    def last(signum: int, frame: Any) -> None:
        if callable(before):
            before(signum, frame)
        elif before == signal.SIG_DFL:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    signal.signal(signal.SIGTERM, last)
    wait()


def handled_then_default() -> None:
    """As asyncio and uvicorn do: a handler for a while, then the default again."""
    set_up_in_parent()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    wait()


def asyncio_handler() -> None:
    import asyncio

    set_up_in_parent()

    async def main() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        work()
        ready()
        await stop.wait()

    asyncio.run(main())


# Children


def fork(leave: Any, shut: bool = False) -> None:
    set_up_in_parent()
    pid = os.fork()
    if pid == 0:
        work()
        if shut:
            PROVIDER_MADE.shutdown()
        leave(0)
    os.waitpid(pid, 0)


def process(method: str, target: Any = work, *args: Any) -> None:
    import multiprocessing

    child = multiprocessing.get_context(method).Process(target=target, args=args)
    child.start()
    child.join(50)
    assert child.exitcode == 0, child.exitcode


def late_thread(who: str) -> None:
    """The target returns while a thread that the process waits for is still to make its calls."""
    threading.Thread(target=lambda: (time.sleep(0.5), work(who))).start()


def idle_executor(who: str) -> None:
    """A thread pool that is never shut down: its idle thread ends only when the interpreter asks for it."""
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(1)
    HELD.append(pool)
    pool.submit(work, who).result()


def nested(who: str) -> None:
    process("fork", work, who)


def process_terminate(who: str) -> None:
    import multiprocessing

    child = multiprocessing.get_context("fork").Process(target=lambda: (work(who), ready(), time.sleep(60)))
    child.start()
    while not os.path.exists(OUT + ".ready"):
        time.sleep(0.02)
    child.terminate()
    child.join(50)
    assert child.exitcode == -signal.SIGTERM, child.exitcode


def pool(close: bool, who: str) -> None:
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(1) as workers:
        workers.map(work, [who])
        if close:
            workers.close()
            workers.join()


def executor(who: str) -> None:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as workers:
        list(workers.map(work, [who]))


CHILDREN: dict[str, Any] = {
    "process_fork": lambda who: process("fork", work, who),
    "process_spawn": lambda who: process("spawn", work, who),
    "process_forkserver": lambda who: process("forkserver", work, who),
    "late_thread": lambda who: process("fork", late_thread, who),
    "idle_executor": lambda who: process("fork", idle_executor, who),
    "nested": lambda who: process("fork", nested, who),
    "process_terminate": process_terminate,
    "pool_close": lambda who: pool(True, who),
    "pool_terminate": lambda who: pool(False, who),
    "executor": executor,
}
PROGRAMS: dict[str, Any] = {
    "sigterm": sigterm,
    "waiting": waiting,
    "holding": holding,
    "handled": handled,
    "handled_before": handled_before,
    "handled_then_default": handled_then_default,
    "chained": chained,
    "asyncio_handler": asyncio_handler,
    "fork_os_exit": lambda: fork(os._exit),
    "fork_shutdown_os_exit": lambda: fork(os._exit, True),
    "fork_sys_exit": lambda: fork(sys.exit),
}


# Servers and workers


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": kind + ".complete"})
            if kind == "lifespan.shutdown":
                return
            with contextlib.suppress(FileExistsError):  # of several workers the first one works
                os.close(os.open(f"{OUT}.first", os.O_CREAT | os.O_EXCL))
                work()
                ready()


def wsgi(environ: Any, start: Any) -> Any:
    start("200 OK", [])
    return [b""]


def post_worker_init(worker: Any) -> None:
    """gunicorn's hook, this file being its configuration."""
    work()
    ready()


def uvicorn_run() -> None:
    import uvicorn

    set_up_in_parent()
    uvicorn.run(asgi, port=0, log_level="error", lifespan="on")


def celery_app() -> Any:
    from celery import Celery, signals

    app = Celery("ends", broker=E.get("ENDS_BROKER") or "memory://")
    app.conf.update(worker_prefetch_multiplier=1, broker_connection_retry_on_startup=False)
    if "recycled" in CASE:
        app.conf.worker_max_tasks_per_child = 1

    @app.task(name="calls")
    def calls() -> None:
        work()
        if "recycled" not in CASE:
            ready()
        if "busy" in CASE:
            time.sleep(60)

    @signals.worker_process_init.connect(weak=False)
    def again(**_: Any) -> None:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(f"{OUT}.first", os.O_CREAT | os.O_EXCL))
            return
        ready()  # the second child, if there is one: the first has ended

    @signals.worker_ready.connect(weak=False)
    def go(**_: Any) -> None:
        calls.delay()

    return app


if __name__ == "__main__":
    cases = sys.argv[1].split(",")
    if cases[0] in CHILDREN:
        set_up_in_parent()
        for case in cases:
            CHILDREN[case](case if len(cases) > 1 else "child")
    elif cases == ["uvicorn_run"]:
        uvicorn_run()
    else:
        PROGRAMS[cases[0]]()
elif CASE.startswith("celery"):
    set_up_in_parent()
    app = celery_app()
elif __name__ == "__mp_main__" or CASE.startswith("uvicorn_cli") or __name__ == "__config__":
    set_up_in_parent()
