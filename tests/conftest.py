"""Fixtures for every test: a replay server, a span exporter, a metric reader, and the instrumented clients."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import openai

    from tests.support.apis import Sync
    from tests.support.clock import Clock
    from tests.support.replay import Replay
    from tests.support.spans import Metrics, Spans


ONE_AUTHORITY = Path(__file__).parent / "support" / "authority.pem"
"""The certificate of an authority that has signed nothing."""


def pytest_configure() -> None:
    """Settings of the whole run, child processes included."""
    # Hundreds of interpreters start here, and each would compile anew what it imports of this checkout.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # A client reads its store of authorities whenever it is made, which takes 30 ms; the servers here speak plain HTTP.
    os.environ["SSL_CERT_FILE"] = str(ONE_AUTHORITY)
    # Each worker has a core at most: torch's other threads would spin while they wait for it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # What a shell puts into the background ignores Ctrl-C, and so would the children that tests interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Clients and ibis make hundreds of thousands of objects that stay: to look through them again and again would be a
    # tenth of the work. Tests of what is left behind run the collector themselves.
    gc.set_threshold(20_000, 20, 20)
    # How long an example takes says nothing on a machine that does other things too.
    try:
        from hypothesis import HealthCheck, settings

        from tests.support.effort import examples
    except ImportError:  # not in every environment of ``make matrix``
        return
    settings.register_profile(
        "unhurried", deadline=None, max_examples=examples(30), suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("unhurried")


@pytest.fixture(autouse=True)
def _ctrl_c_as_before() -> Iterator[None]:
    """What a test makes of Ctrl-C ends with it: where another one sends it, the whole worker would die."""
    before = signal.getsignal(signal.SIGINT)
    yield
    after = signal.getsignal(signal.SIGINT)
    if after is not before:
        signal.signal(signal.SIGINT, before)
        pytest.fail(f"this test has left another handler of SIGINT: {after!r}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """One worker more than there are cores: a test often waits for a socket, a process or a clock."""
    return None if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ else (os.cpu_count() or 1) + 1


TOGETHER = {
    "clients": (
        "providers",
        "calls/test_repairs.py",
        "instrumentation/test_asked_nobody.py",
        "instrumentation/test_cache_diagnosis.py",
        "instrumentation/test_conventions.py",
        "instrumentation/test_failures.py",
        "instrumentation/test_libraries.py",
        "instrumentation/test_links.py",
        "instrumentation/test_never_in_the_way.py",
        "instrumentation/test_own_requests.py",
        "probe/test_cancel.py",
        "probe/test_command.py",
    ),
    "torch": (
        "reference",
        "instrumentation/test_model_loads.py",
        "instrumentation/test_transformers.py",
        "evaluation/gpu/test_checks.py",
    ),
    "viewer": ("view/serve",),
    "command": ("test_cli.py", "test_samples.py"),
    "statements": (
        "analyze/test_reports.py",
        "analyze/test_because.py",
        "analyze/test_cache_report.py",
        "analyze/test_components.py",
        "analyze/test_objectives.py",
    ),
}
"""Folders and files whose tests one worker takes all, by what they share: LiteLLM and Anthropic's client, a model, a
viewer, a warm interpreter, compiled statements. Each worker that gets one of them would else take seconds for it."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Files as ``--dist loadfile`` hands them out, but for those of ``TOGETHER``."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    shared = {place: name for name, places in TOGETHER.items() for place in places}

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            below = file.removeprefix("tests/")
            return next((name for place, name in shared.items() if (below + "/").startswith(place + "/")), file)

    return Together(config, log)


FORKING = (
    "observe/test_process.py",
    "observe/test_in_use.py",
    "emit/test_otlp_json.py",
    "estimate/test_prefixes.py",
    "estimate/test_fitter.py",
)
"""The files whose tests fork the worker itself. They go before all others: a child of a worker that has imported every
client and torch takes seconds, where one of a fresh worker takes none."""

LONGEST = (
    "instrumentation/test_switched_on_first.py",
    "providers/test_contract.py",
    "view/serve/test_store.py",
    "reference/test_batching.py",
    "launch/test_run.py",
    "instrumentation/test_process_ends.py",
    "demo/test_demo.py",
    "analyze/test_reports.py",
    "instrumentation/test_process.py",
    "examples/test_programs.py",
    "test_cli.py",
    "analyze/test_versions.py",
    "analyze/test_surroundings.py",
    "analyze/test_engine_spans.py",
    "instrumentation/test_blind.py",
    "evaluation/phases/test_harness.py",
    "instrumentation/test_bad_input.py",
    "instrumentation/test_switched_on_first.py",
    "estimate/test_baseline.py",
    "estimate/test_shared_engines.py",
)
"""The files that take longest, most of the suite's time together. A worker takes whole files: with a long one for the
last, it would work on while the others have nothing left."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Each of several workers imports its share of the files first.

    To import one is to rewrite its assertions, which takes longer than all else and is kept on the disk: in a new
    checkout the workers would otherwise do the same work side by side, file by file.
    """
    worker = getattr(session.config, "workerinput", None)
    if worker is None or session.config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return
    number, count = int(worker["workerid"].removeprefix("gw")), int(worker["workercount"])
    tests = Path(__file__).parent
    files = [
        file for file in sorted(tests.rglob("test_*.py")) if "e2e" not in file.parts and "browser" not in file.parts
    ]
    for file in files[number::count]:
        with suppress(Exception, pytest.skip.Exception):  # collecting it tells why
            import_module(".".join(file.relative_to(tests.parent).with_suffix("").parts))


TAKES_SECONDS = ("torch", "transformers", "peft", "anthropic", "litellm", "google.genai", "cohere", "mistralai")
"""Modules that no worker shall import before a test needs them."""
collected_with: list[str] = []
"""Those of them that collecting imported all the same."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    collected_with[:] = [name for name in TAKES_SECONDS if name in sys.modules]
    from tests.support.replay import NO_SHARED, shared_folder

    folder = Path(__file__).parent
    place = {folder / name: number for number, name in enumerate((*FORKING, *LONGEST))}
    items.sort(key=lambda item: place.get(item.path, len(place)))
    if shared_folder() is None:
        for item in items:
            if item.get_closest_marker("shared"):
                item.add_marker(pytest.mark.skip(reason=NO_SHARED))


_modules_seen = 0
_SEVERAL = 50
"""Modules. Clients import a few more at every turn, and the collector passes over all that there is each time."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Hundreds of tests run the collector; what imports made need not be looked at each time.

    Whatever lives between two tests, after there were imports, is no garbage, and the collector passes it over from
    then on. With every client imported, a full collection would take 0.4 s.
    """
    global _modules_seen
    if len(sys.modules) - _modules_seen > _SEVERAL:
        gc.collect()
        gc.freeze()
        _modules_seen = len(sys.modules)


@pytest.fixture
def replay() -> Iterator[Replay]:
    """A server that plays scripts over real sockets."""
    from tests.support.replay import Replay

    with Replay() as server:
        yield server


@pytest.fixture
def spans() -> Iterator[Spans]:
    """A tracer provider whose finished spans are at hand."""
    from tests.support.spans import Spans

    collected = Spans()
    yield collected
    collected.provider.shutdown()


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    """A meter provider whose metrics are at hand."""
    from tests.support.spans import Metrics

    collected = Metrics()
    yield collected
    collected.provider.shutdown()


class Tracing:
    """llmtrace, switched on and off."""

    def __init__(self, spans: Spans, metrics: Metrics) -> None:
        self.spans, self.metrics = spans, metrics
        self.clients: tuple[str, ...] = ()
        self.settings: dict[str, Any] = {}

    def on(self, *clients: str, **settings: Any) -> None:
        import llmtrace

        self.clients, self.settings = clients or ("openai",), settings
        providers = {"tracer_provider": self.spans.provider, "meter_provider": self.metrics.provider}
        llmtrace.instrument(*self.clients, **(providers | settings))

    def off(self) -> None:
        import llmtrace

        llmtrace.uninstrument()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The bare client, as it is without llmtrace."""
        self.off()
        try:
            yield
        finally:
            self.on(*self.clients, **self.settings)


@pytest.fixture
def tracing(spans: Spans, metrics: Metrics) -> Iterator[Tracing]:
    """llmtrace, not yet switched on: for tests that need settings of their own."""
    tracing = Tracing(spans, metrics)
    yield tracing
    tracing.off()


@pytest.fixture
def traced(tracing: Tracing) -> Tracing:
    """llmtrace on the OpenAI client, exporting to ``spans`` and ``metrics``."""
    tracing.on()
    return tracing


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that the test moves, in the place of llmtrace's own."""
    from tests.support.clock import install

    return install(monkeypatch)


@pytest.fixture
def make_api(replay: Replay) -> Iterator[Callable[..., Sync]]:
    """Makes an ``Api`` against the replay server (or ``base_url``): ``make_api("async", max_retries=2)``."""
    from tests.support.apis import Async, Sync

    made: list[Sync] = []

    def make(kind: str, base_url: str | None = None, **settings: Any) -> Sync:
        api = (Async if kind == "async" else Sync)(base_url or replay.base_url, **settings)
        made.append(api)
        return api

    yield make
    for api in made:
        api.shut()


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def api(kind: str, make_api: Callable[..., Sync]) -> Sync:
    """Both clients in turn, behind the same verbs, without retries."""
    return make_api(kind)


@pytest.fixture
def client(replay: Replay) -> Iterator[openai.OpenAI]:
    from tests.support.apis import sync_client

    with sync_client(replay.base_url) as made:
        yield made


@pytest.fixture
async def aclient(replay: Replay) -> Any:
    from tests.support.apis import async_client

    async with async_client(replay.base_url) as made:
        yield made
