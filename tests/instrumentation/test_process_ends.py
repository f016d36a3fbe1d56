"""How a process's last spans fare, and what a fork leaves behind: real processes against the replay server.

The cases that matter most; ``make ends`` runs all of them, also on other Pythons.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from signal import getsignal as really_stands
from signal import signal as really_set
from typing import Any

import pytest

from tests.support import ends
from tests.support.effort import examples
from tests.support.ends import ALL, CASES, NONE, ROOT, Case, exit_code, left
from tests.support.warm import warm

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def case(name: str, provider: str = "parent") -> Case:
    (found,) = [each for each in CASES if (each.name, each.provider) == (name, provider)]
    return found


ESSENTIAL = [
    ("sigterm", "hooks"),
    ("sigterm", "sigterm"),
    ("waiting", "sigterm"),
    ("handled", "sigterm"),
    ("chained", "sigterm"),
    ("fork_os_exit", "hooks"),
    ("uvicorn_cli_term", "sigterm"),
]


@pytest.mark.parametrize(("name", "mode"), ESSENTIAL)
def test_what_arrives(name: str, mode: str) -> None:
    late = 1.0 if mode == "sigterm" else 0.0  # a backend that takes its time is waited for
    arrived = left(name, mode, late=late, by_fork=True)
    expected = case(name).expected(mode)
    assert arrived.of() == (int(bool(expected)), expected), arrived.log
    assert arrived.code == exit_code(name), "as without llmtrace"


@pytest.mark.parametrize(
    ("names", "mode", "provider"),
    [
        (
            ("process_fork", "process_spawn", "late_thread", "idle_executor", "pool_close", "executor"),
            "hooks",
            "parent",
        ),
        (("process_fork", "executor"), "hooks", "child"),
        (("process_terminate", "pool_terminate"), "sigterm", "parent"),
    ],
)
def test_what_arrives_of_children(names: tuple[str, ...], mode: str, provider: str) -> None:
    """Several kinds of children, one after another, from one parent."""
    arrived = left(",".join(names), mode, provider)
    assert {name: arrived.of(name) for name in names} == dict.fromkeys(names, (1, ALL)), arrived.log
    assert arrived.code == 0


def test_the_last_spans_of_a_celery_worker() -> None:
    python = ROOT / ".venvs" / "ends" / "bin" / "python"
    if not python.exists() and importlib.util.find_spec("celery") is None:
        pytest.skip("needs Celery: make ends installs it")
    arrived = left("celery_cold", "hooks", python=str(python) if python.exists() else sys.executable)
    assert arrived.of() == (1, ALL), arrived.log


@pytest.mark.parametrize("name", ["sigterm", "process_fork"])
def test_an_exporter_that_hangs_holds_up_the_end_for_a_while(name: str) -> None:
    arrived = left(name, "sigterm", late=600, patience=1, by_fork=True)
    assert arrived.of() == (0, NONE)
    assert arrived.code == exit_code(name)


def test_a_second_sigterm_ends_the_process_at_once() -> None:
    arrived = left("sigterm_twice", "sigterm", late=600, patience=50, by_fork=True)
    assert arrived.code == -signal.SIGTERM
    assert arrived.seconds < 40


def test_a_lock_that_the_interrupted_thread_holds() -> None:
    """Ending the open calls waits for it in vain; what had ended before is exported all the same."""
    arrived = left("holding", "sigterm", patience=4, by_fork=True)
    assert arrived.of() == (1, ("completed", "completed")), arrived.log
    assert arrived.code == -signal.SIGTERM


# Standing in for SIGTERM's default


@pytest.fixture
def default_sigterm() -> Any:
    """SIGTERM at its default before and after, whatever the test does."""
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("handlers can be set on the main thread only")
    before = really_set(signal.SIGTERM, signal.SIG_DFL)
    yield
    standing = really_set(signal.SIGTERM, before)
    assert standing == signal.SIG_DFL


def test_a_program_finds_the_default_where_ours_stands(default_sigterm: None, tracing: Any) -> None:
    functions = signal.signal, signal.getsignal
    tracing.on(flush_on_sigterm=True)
    ours = really_stands(signal.SIGTERM)
    assert callable(ours)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    def theirs(signum: int, frame: Any) -> None: ...

    assert signal.signal(signal.SIGTERM, theirs) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is really_stands(signal.SIGTERM) is theirs
    assert signal.signal(signalnum=signal.SIGTERM, handler=signal.SIG_DFL) is theirs
    assert really_stands(signal.SIGTERM) is ours
    assert signal.signal(signal.SIGTERM, signal.SIG_IGN) is signal.SIG_DFL
    assert really_stands(signal.SIGTERM) == signal.SIG_IGN
    assert signal.signal(signal.SIGTERM, 0) == signal.SIG_IGN
    assert really_stands(signal.SIGTERM) is ours
    before = signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    assert really_stands(signal.SIGUSR1) == signal.SIG_DFL
    signal.signal(signal.SIGUSR1, before)
    with pytest.raises(TypeError):
        signal.signal(signal.SIGTERM)  # type: ignore[call-arg]
    tracing.off()
    assert (signal.signal, signal.getsignal) == functions


def test_it_goes_with_the_last_client_that_asked_for_it(default_sigterm: None, tracing: Any) -> None:
    import llmtrace

    tracing.on("openai", "anthropic", flush_on_sigterm=True)
    llmtrace.uninstrument("openai")
    assert callable(really_stands(signal.SIGTERM))
    llmtrace.uninstrument("anthropic")
    assert really_stands(signal.SIGTERM) == signal.SIG_DFL


def test_a_handler_of_the_programs_own_stays(default_sigterm: None, tracing: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tracing.on(flush_on_sigterm=True)
    assert really_stands(signal.SIGTERM) == signal.SIG_IGN
    tracing.off()
    assert really_set(signal.SIGTERM, signal.SIG_DFL) == signal.SIG_IGN


def test_without_the_setting_sigterm_is_left_alone(default_sigterm: None, tracing: Any) -> None:
    function = signal.signal
    tracing.on()
    assert really_stands(signal.SIGTERM) == signal.SIG_DFL
    assert signal.signal is function


def test_on_another_thread_it_says_that_it_cannot(
    default_sigterm: None, tracing: Any, caplog: pytest.LogCaptureFixture
) -> None:
    thread = threading.Thread(target=lambda: tracing.on(flush_on_sigterm=True))
    thread.start()
    thread.join()
    assert really_stands(signal.SIGTERM) == signal.SIG_DFL
    assert "main thread" in caplog.text


# Forks


def bare() -> dict[str, str]:
    """The environment without what steers OpenTelemetry or llmtrace."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LLMTRACE_", "OTEL_"))}
    return {**kept, "PYTHONPATH": str(ROOT)}


def run(program: list[str], cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        program,
        env={**bare(), **env},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def test_no_child_hangs_that_is_forked_while_threads_are_busy(tmp_path: Path) -> None:
    """40 children of a process whose eight threads make and end calls: each calls by itself, and flushes."""
    storm = str(Path(ends.__file__).with_name("fork_storm.py"))
    done = run([sys.executable, storm, ends.api(), str(examples(40))], tmp_path)
    assert done.returncode == 0, done.stderr
    came = json.loads(done.stdout)
    assert (came["hung"], came["failed"], came["codes"]) == (0, 0, []), done.stderr


FORKED = """
import gc, json, os, sys
import openai, llmtrace
from llmtrace.calls import finalizers
from llmtrace.instrumentation import shared
from llmtrace.observe.call import open_count
from tests.support.spans import Spans, outcome

spans = Spans()
llmtrace.instrument("openai", tracer_provider=spans.provider, min_calls=8, min_spread=1.5)
client = openai.OpenAI(base_url=sys.argv[1], api_key="k", http_client=openai.DefaultHttpxClient(verify=False))
create = client.chat.completions.create
ask = lambda size: dict(model="m", messages=[{"role": "user", "content": "word " * size}])
for size in range(40):
    list(create(**ask(size * 9), stream=True, stream_options={"include_usage": True}))
baselines = shared._tracers[0].services.baselines
baselines.settle()
held = create(**ask(3), stream=True)
next(held)
dropped = create(**ask(3), stream=True)

def state():
    (route,) = baselines._routes.values()
    return {"open": open_count(), "in_flight": route.traffic.open, "points": route.points,
            "curve": repr(route.curve), "worker": finalizers._worker._thread is not None}

def tell(what):
    os.write(1, (json.dumps(what) + "\\n").encode())

tell(state())
spans.clear()
child = os.fork()
if child == 0:
    tell(state())
    del held, dropped
    gc.collect()
    spans.flush()
    tell([outcome(span) for span in spans.parents()])
    never = create(**ask(3), stream=True)
    del never
    gc.collect()
    spans.flush()
    tell([outcome(span) for span in spans.parents()])
    tell(state())
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
tell(state())
list(held)
del dropped
gc.collect()
spans.flush()
tell([outcome(span) for span in spans.parents()])
"""


def test_a_child_keeps_what_was_learned_and_nothing_that_was_under_way(replay: Any, tmp_path: Path) -> None:
    from tests.support import replay as play

    replay.serve(play.openai_stream(usage=play.USAGE, itl=0.001))
    done = warm(*ends.WARM).run(FORKED, replay.base_url, env=bare(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    before, child, inherited, own, later, parent, ended = map(json.loads, done.stdout.splitlines())
    assert (before["open"], before["in_flight"], before["worker"]) == (2, 2, True)
    assert before["points"] > 0, "something was learned; on a machine that slows down meanwhile, not from all 40 calls"
    assert child == before | {"open": 0, "in_flight": 0, "worker": False}
    assert inherited == [], "the parent's calls are the parent's"
    assert own == ["never_consumed"]
    assert (later["open"], later["in_flight"], later["worker"]) == (0, 0, True)
    assert parent == before
    assert sorted(ended) == ["completed", "never_consumed"]


# OpenTelemetry switched off


DISABLED = """
import json, os, signal, sys
from signal import getsignal
import openai

ours = os.environ.get("OURS")
if ours:
    import llmtrace
    llmtrace.instrument()
    llmtrace.instrument("openai", flush_on_sigterm=True, baseline_path="learned")
    from llmtrace.instrumentation.instrumentors import OpenAIInstrumentor
    OpenAIInstrumentor().instrument()
client = openai.OpenAI(base_url=sys.argv[1], api_key="k", max_retries=0)
ask = dict(model="m", messages=[{"role": "user", "content": "hi"}])
answer = client.chat.completions.create(**ask)
stream = client.chat.completions.create(**ask, stream=True)
next(stream)
import gc
from openai.resources.chat.completions import Completions
places = [openai.OpenAI, openai.Stream, Completions, openai._base_client.SyncAPIClient, type(client._client)]
kept = [o for o in gc.get_objects() if str(type(o).__module__).startswith(("llmtrace.calls", "llmtrace.observe.call"))]
print(json.dumps({
    "id": answer.id,
    "wrapped": [f"{c.__name__}.{n}" for c in places for n, f in vars(c).items() if "Patched" in type(f).__name__],
    "stream": type(stream._iterator).__name__ + " " + stream._iterator.__qualname__,
    "sigterm": repr(getsignal(signal.SIGTERM)),
    "kept": len(kept),
    "loaded": [m for m in sys.modules if m.startswith(("llmtrace.calls", "llmtrace.estimate", "llmtrace.diagnosis"))],
    "files": os.listdir("."),
}))
if ours:
    llmtrace.uninstrument()
"""


@pytest.mark.parametrize("launcher", [False, True], ids=["instrument", "opentelemetry-instrument"])
def test_disabled_means_that_nothing_is_patched_recorded_or_kept(replay: Any, tmp_path: Path, launcher: bool) -> None:
    from tests.support import replay as play

    if launcher:
        pytest.importorskip("opentelemetry.distro", reason="without a distribution nothing sets the SDK up")
    replay.serve(lambda request: play.openai_stream() if request.json.get("stream") else play.openai_body())
    exporters = {"OTEL_TRACES_EXPORTER": "console", "OTEL_METRICS_EXPORTER": "console", "OTEL_LOGS_EXPORTER": "console"}
    env = exporters | {
        "OTEL_SDK_DISABLED": "true",
        "LLMTRACE_FLUSH_ON_SIGTERM": "true",
        "OURS": "" if launcher else "1",
    }
    if launcher:
        started = [str(Path(sys.executable).parent / "opentelemetry-instrument"), sys.executable]
        done = run([*started, "-c", DISABLED, replay.base_url], tmp_path, **env)
    else:
        done = warm(*ends.WARM).run(DISABLED, replay.base_url, env=bare() | env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (told,) = map(json.loads, done.stdout.splitlines())
    assert told == {
        "id": play.ID,
        "wrapped": [],
        "stream": "generator Stream.__stream__",
        "sigterm": repr(signal.SIG_DFL),
        "kept": 0,
        "loaded": [],
        "files": [],
    }


# The page


def test_the_table_on_the_page_holds_every_case() -> None:
    from tests.evaluation.common.pages import read_section
    from tests.evaluation.ends.table import PAGE, SECTION, table

    lines = read_section(PAGE, SECTION).splitlines()
    assert [line for line in lines if line.startswith("|")] == table()
