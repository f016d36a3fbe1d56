"""`llmtrace run` and `configure` as a user has them: whole programs in processes of their own, over real sockets."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmtrace.errors import LlmtraceError
from llmtrace.launch import destinations
from llmtrace.launch.destinations import choose
from llmtrace.launch.probe import is_a_page, patience
from tests.support import ndjson
from tests.support.answering import answering
from tests.support.grpc_collector import GrpcCollector
from tests.support.replay import Replay, Request, Script, json_answer, openai_body, openai_stream, refused_url

PATIENCE_S = 300
"""A program that has not ended after so long hangs, however busy the machine."""
APP = """
import sys, ollama
client = ollama.Client(host=sys.argv[1])
for chunk in client.chat(model="m", stream=True, messages=[{"role": "user", "content": "hello"}]):
    pass
print("the answer is here", *sys.argv[2:])
sys.exit(7)
"""
"""Dozens of programs are started here: of the clients, Ollama's is imported soonest, in a third of OpenAI's time."""
OPENAI_APP = """
import sys, openai
client = openai.OpenAI(base_url=sys.argv[1], api_key="k")
for chunk in client.chat.completions.create(model="m", stream=True, messages=[{"role": "user", "content": "hello"}]):
    pass
print("the answer is here", *sys.argv[2:])
sys.exit(7)
"""
BARE = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "LLMTRACE_"))}
BARE["OTEL_EXPORTER_OTLP_TIMEOUT"] = str(PATIENCE_S)
"""Without what steers it, and with no limit that a busy machine overruns: the collectors here are threads of ours."""


@pytest.fixture
def provider() -> Iterator[Replay]:
    with closing(Replay()) as replay:
        # In step with its reader: however late that comes to run, no two chunks lie there together.
        replay.serve(openai_stream(ttft=0.05, itl=0.01, lockstep=True))
        replay.serve(ndjson.stream(end={}, ttft=0.05, itl=0.01, lockstep=True), "/api/chat")
        yield replay


@pytest.fixture
def app(tmp_path: Path) -> Path:
    path = tmp_path / "app.py"
    path.write_text(APP)
    return path


def run(*arguments: str | Path, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llmtrace.cli", "run", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=BARE | environ, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def by_itself(app: Path, url: str) -> subprocess.CompletedProcess[str]:
    """The program without ``llmtrace run``: what it sets up, it sets up in code."""
    return subprocess.run(
        [sys.executable, str(app), url, "m"],
        env=BARE, cwd=app.parent, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip


def names_in(path: Path) -> list[str]:
    spans: list[str] = []
    for line in path.read_text().splitlines():
        for resource in json.loads(line)["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                spans += [span["name"] for span in scope["spans"]]
    return spans


def test_a_file_gets_the_spans_and_the_program_keeps_its_output_and_exit_code(
    provider: Replay, app: Path, tmp_path: Path
) -> None:
    app.write_text(OPENAI_APP)
    done = run("--file", "t.jsonl", "--", sys.executable, app, provider.base_url, "--view", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (7, "the answer is here --view\n")
    assert done.stderr == "llmtrace: spans go into t.jsonl: llmtrace show t.jsonl\n"
    assert {"chat m", "llm.queue_prefill", "llm.decode"} <= set(names_in(tmp_path / "t.jsonl"))


def test_the_terminal_gets_each_call_with_its_phases(provider: Replay, app: Path, tmp_path: Path) -> None:
    done = run("--console", sys.executable, app, provider.url, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (7, "the answer is here\n")
    lines = done.stderr.splitlines()
    assert lines[1].startswith("chat m  ")
    assert "completed" in lines[1]
    assert any(line.startswith("  llm.decode ") for line in lines)
    assert any(line.startswith("  llm.queue_prefill ") and "not split: " in line for line in lines)


def test_an_endpoint_gets_spans_and_metrics_with_its_key_if_it_takes_them(
    provider: Replay, app: Path, tmp_path: Path
) -> None:
    with closing(Replay()) as collector:
        collector.serve(json_answer({}))
        key = {"OTEL_EXPORTER_OTLP_HEADERS": "x-key=secret"}
        done = run("--otlp", collector.url, "--", sys.executable, app, provider.url, cwd=tmp_path, **key)
        assert done.returncode == 7
        assert {request.path for request in collector.requests} == {"/v1/traces", "/v1/metrics"}
        assert {request.headers["x-key"] for request in collector.requests} == {"secret"}
    with closing(Replay()) as jaeger:
        jaeger.serve(json_answer({}), "/v1/traces")
        jaeger.serve(json_answer({}, status=404), "/v1/metrics")
        done = run("--otlp", jaeger.url, "--", sys.executable, app, provider.url, cwd=tmp_path)
        assert done.stderr == f"llmtrace: spans go to {jaeger.url}\n"
        paths = [request.path for request in jaeger.requests]
        assert paths.count("/v1/metrics") == 1, "asked once whether it takes metrics, and left alone then"
        assert "/v1/traces" in paths


def test_metrics_go_where_their_own_variables_say(provider: Replay, app: Path, tmp_path: Path) -> None:
    with closing(Replay()) as collector, closing(Replay()) as meters:
        collector.serve(json_answer({}))
        meters.serve(json_answer({}))
        own = {
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{meters.url}/take",
            "OTEL_EXPORTER_OTLP_METRICS_HEADERS": "x-key=metrics",
            "OTEL_EXPORTER_OTLP_HEADERS": "x-key=all",
        }
        for where in ([], ["--file", "t.jsonl"]):
            general = {} if where else {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
            done = run(*where, "--", sys.executable, app, provider.url, cwd=tmp_path, **own, **general)
            assert done.stderr.endswith(f"; metrics go to {meters.url}/take\n")
            assert {(request.path, request.headers["x-key"]) for request in meters.requests} == {("/take", "metrics")}
            meters.reset()
            meters.serve(json_answer({}))
        assert {(request.path, request.headers["x-key"]) for request in collector.requests} == {("/v1/traces", "all")}
        collector.reset()
        collector.serve(json_answer({}))
        run("--otlp", collector.url, "--", sys.executable, app, provider.url, cwd=tmp_path, **own)
        assert {request.path for request in collector.requests} == {"/v1/traces", "/v1/metrics"}
        assert not meters.requests, "an argument goes before a variable"


def test_traces_and_metrics_each_have_their_endpoint_and_their_protocol() -> None:
    with closing(Replay()) as one, closing(GrpcCollector()) as other:

        def chosen(**environ: str) -> tuple[str, str, str, str]:
            found = choose(environ={f"OTEL_EXPORTER_OTLP_{name}": value for name, value in environ.items()})
            return found.kind, found.place, found.metrics_kind, found.metrics_place

        spans, both = f"{one.url}/exact", {"ENDPOINT": other.url, "PROTOCOL": "grpc"}
        assert chosen(TRACES_ENDPOINT=spans, TRACES_PROTOCOL="http/protobuf", **both) == (
            "otlp", spans, "otlp_grpc", other.url
        )  # fmt: skip
        assert chosen(METRICS_ENDPOINT=spans, METRICS_PROTOCOL="http/protobuf", **both) == (
            "otlp_grpc", other.url, "otlp", spans
        )  # fmt: skip
        assert chosen(**both) == ("otlp_grpc", other.url, "otlp_grpc", other.url)
        assert chosen(ENDPOINT=one.url, TRACES_ENDPOINT=" ") == (
            "otlp", f"{one.url}/v1/traces", "otlp", f"{one.url}/v1/metrics"
        )  # fmt: skip
        assert chosen(TRACES_ENDPOINT=spans) == ("otlp", spans, "", "")


@pytest.mark.parametrize("url", ["ftp://x", "{}"])
def test_metrics_that_have_no_place_keep_no_span_from_its_own(url: str, tmp_path: Path) -> None:
    environ = {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": url.format(refused_url())}
    found = choose(file=tmp_path / "t.jsonl", environ=environ)
    assert (found.kind, found.metrics_place) == ("file", "")
    assert "metrics go nowhere" in found.sentence


def test_grpc_is_spoken_where_the_environment_asks_for_it(provider: Replay, app: Path, tmp_path: Path) -> None:
    with closing(GrpcCollector()) as collector:
        where = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
        done = run("--", sys.executable, app, provider.url, cwd=tmp_path, **where)
        assert done.stderr == f"llmtrace: spans go to {collector.url}\n"
        assert "chat m" in collector.names
        assert collector.metrics


def test_the_address_of_the_traces_is_used_as_it_stands(provider: Replay, app: Path, tmp_path: Path) -> None:
    with closing(Replay()) as collector:
        collector.serve(json_answer({}))
        where = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/take?team=a"}
        run("--", sys.executable, app, provider.url, cwd=tmp_path, **where)
        assert {request.path for request in collector.requests} == {"/take?team=a"}
    with closing(Replay()) as collector:
        collector.serve(json_answer({}))
        run("--otlp", f"{collector.url}/in?team=a", sys.executable, app, provider.url, cwd=tmp_path)
        assert {request.path for request in collector.requests} == {"/in/v1/traces?team=a", "/in/v1/metrics?team=a"}


def test_a_run_inside_another_goes_where_the_outer_one_sends(provider: Replay, app: Path, tmp_path: Path) -> None:
    inner = [sys.executable, "-m", "llmtrace", "run"]
    outer = tmp_path / "outer.jsonl"
    done = run("--file", outer, "--", *inner, "--", sys.executable, app, provider.url, cwd=tmp_path)
    assert done.returncode == 7
    assert f"the llmtrace run around this one sends them: {outer}" in done.stderr
    assert names_in(outer).count("chat m") == 1
    chosen = tmp_path / "inner.jsonl"
    run("--file", outer, "--", *inner, "--file", chosen, sys.executable, app, provider.url, cwd=tmp_path)
    assert "chat m" in names_in(chosen), "what is asked for nearest to the program holds"


TWICE = """
import sys, ollama, llmtrace
def call():
    client = ollama.Client(host=sys.argv[1])
    for chunk in client.chat(model=sys.argv[-1], stream=True, messages=[{"role": "user", "content": "hello"}]):
        pass
"""


def test_a_second_configure_takes_the_place_of_the_first(provider: Replay, tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(
        TWICE
        + "for name in ('a', 'b', 'b'):\n    print(llmtrace.configure('ollama', file=name + '.jsonl'))\n    call()\n"
    )
    done = by_itself(app, provider.url)
    assert done.stderr == ""
    assert [names_in(tmp_path / name).count("chat m") for name in ("a.jsonl", "b.jsonl")] == [1, 2]


UNDER_WAY = """
import asyncio, sys, threading, time, openai, llmtrace
from llmtrace.calls import finalizers
from llmtrace.observe.call import open_count
client = openai.OpenAI(base_url=sys.argv[1], api_key="k", http_client=openai.DefaultHttpxClient(verify=False))
aclient = openai.AsyncOpenAI(base_url=sys.argv[1], api_key="k")
def asked(model, stream=True):
    return {"model": model, "stream": stream, "messages": [{"role": "user", "content": "hello"}]}
def senders():
    return sum("Batch" in thread.name for thread in threading.enumerate())

async def main():
    llmtrace.configure("openai", file="a.jsonl")
    stream = client.chat.completions.create(**asked("sync"))
    next(stream)
    astream = await aclient.chat.completions.create(**asked("async"))
    await anext(astream)
    whole = threading.Thread(target=client.chat.completions.create, kwargs=asked("whole", False))
    whole.start()
    while open_count() < 3:
        time.sleep(0.001)
    with llmtrace.task("old"), llmtrace.step("search", kind="tool"):
        llmtrace.configure("openai", file="b.jsonl")
        client.chat.completions.create(**asked("late", False))
    before = senders()
    for chunk in stream:
        pass
    async for chunk in astream:
        pass
    whole.join()
    finalizers.settle()
    print(before, senders(), open_count())

asyncio.run(main())
"""


def test_what_is_under_way_at_a_second_configure_goes_where_it_began(tmp_path: Path) -> None:
    late = threading.Event()

    def serve(request: Request) -> Script:
        if request.json["model"] == "late":
            late.set()
        if request.json["stream"]:
            return openai_stream()
        return replace(openai_body(), before=late)

    app = tmp_path / "app.py"
    app.write_text(UNDER_WAY)
    with closing(Replay()) as provider:
        provider.serve(serve)
        done = by_itself(app, provider.base_url)
    assert (done.stderr, done.stdout) == ("", "2 1 0\n"), "the earlier provider is shut down after the last of them"
    names = [sorted(set(names_in(tmp_path / name))) for name in ("a.jsonl", "b.jsonl")]
    ours = [[name for name in each if not name.startswith("llm.")] for each in names]
    assert ours == [["chat async", "chat sync", "chat whole", "task old", "tool search"], ["chat late"]]
    assert "llm.decode" in names[0]


def test_a_configure_that_fails_leaves_the_one_before_in_force(provider: Replay, tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(
        TWICE + "llmtrace.configure('ollama', file='a.jsonl')\n"
        "for wrong in ({'nosuch': 1}, {'capture_content': 'yes'}, {'client': 'olama'}):\n"
        "    try: llmtrace.configure(wrong.pop('client', 'ollama'), file='b.jsonl', **wrong)\n"
        "    except (TypeError, llmtrace.LlmtraceError): pass\n"
        "    else: raise SystemExit('it was taken')\n"
        "call()\n"
    )
    done = by_itself(app, provider.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert names_in(tmp_path / "a.jsonl").count("chat m") == 1
    assert not (tmp_path / "b.jsonl").exists()


def test_configure_takes_nothing_over_that_the_program_switched_on(provider: Replay, tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(
        TWICE + "from opentelemetry.sdk.trace import TracerProvider\n"
        "from opentelemetry.sdk.trace.export import SimpleSpanProcessor\n"
        "from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter\n"
        "memory, mine = InMemorySpanExporter(), TracerProvider()\n"
        "mine.add_span_processor(SimpleSpanProcessor(memory))\n"
        "llmtrace.configure('ollama', file='a.jsonl')\n"
        "llmtrace.uninstrument('ollama')\n"
        "llmtrace.instrument('ollama', tracer_provider=mine)\n"
        "llmtrace.configure('ollama', file='b.jsonl')\ncall()\n"
        "print([span.name for span in memory.get_finished_spans()].count('chat m'))\n"
    )
    done = by_itself(app, provider.url)
    assert done.stdout == "1\n"
    assert "traced already, and so not by configure(): ollama" in done.stderr


def test_a_target_of_grpcs_own_and_an_odd_variable_keep_no_program_from_running(tmp_path: Path) -> None:
    grpc = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    done = run("--", "echo", "RAN", cwd=tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="unix:///tmp/x.sock", **grpc)
    assert (done.returncode, done.stdout) == (0, "RAN\n")
    assert done.stderr == "llmtrace: spans go to unix:///tmp/x.sock\n"
    done = run("--", "echo", "RAN", cwd=tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="::::")
    assert (done.returncode, done.stdout) == (0, "RAN\n")
    assert f"spans go into {destinations.DEFAULT_FILE}" in done.stderr


def test_the_terminal_gets_calls_of_a_program_that_catches_its_own_output(provider: Replay, tmp_path: Path) -> None:
    test = tmp_path / "test_it.py"
    test.write_text(APP.replace("sys.exit(7)", "").replace("sys.argv[1]", repr(provider.url)).replace(
        "import sys, ollama", "import sys, ollama\ndef test_it():\n    pass"
    ))  # fmt: skip
    done = run("--console", "--", sys.executable, "-m", "pytest", "-p", "no:cacheprovider", test, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert any(line.startswith("chat m  ") for line in done.stderr.splitlines())


def test_configure_says_so_where_something_else_traces_already(provider: Replay, tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(TWICE + "llmtrace.instrument('ollama')\nllmtrace.configure('ollama', file='a.jsonl')\ncall()\n")
    done = by_itself(app, provider.url)
    assert done.returncode == 0
    assert "traced already, and so not by configure(): ollama. Call llmtrace.uninstrument() before" in done.stderr


def test_where_nobody_listens_nothing_is_lost(provider: Replay, app: Path, tmp_path: Path) -> None:
    nowhere = refused_url()
    done = run("--otlp", nowhere, "--", sys.executable, app, provider.url, cwd=tmp_path)
    assert done.returncode == 7
    assert done.stderr.startswith(f"llmtrace: nothing listens at {nowhere}")
    assert "chat m" in names_in(tmp_path / destinations.DEFAULT_FILE)


def test_a_collector_that_goes_away_costs_no_wait_at_exit(provider: Replay, tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(APP.replace("print(", "open(sys.argv[2], 'w').close(); sys.stdin.readline()\nprint("))
    with closing(Replay()) as collector:
        collector.serve(json_answer({}, status=404), "/v1/metrics")
        collector.serve(json_answer({}))
        command = [sys.executable, "-m", "llmtrace.cli", "run", "--otlp", collector.url, sys.executable, str(app)]
        read = tmp_path / "read"
        process = subprocess.Popen(
            [*command, provider.url, str(read)],
            env=BARE, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        until(read.exists)
    _, errors = process.communicate("go\n", timeout=PATIENCE_S)
    assert process.returncode == 7
    assert "Traceback" not in errors


def test_signals_are_the_programs_own(tmp_path: Path) -> None:
    program = "import os, signal, sys; print('up', os.getpid(), flush=True); signal.pause()"
    command = [sys.executable, "-m", "llmtrace.cli", "run", "--console", sys.executable, "-c", program]
    process = subprocess.Popen(command, env=BARE, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    assert int(process.stdout.readline().split()[1]) == process.pid, "it has the process that was started"
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == -signal.SIGTERM
    process.stdout.close()


def test_children_are_traced_too_and_the_environments_own_start_is_run(
    provider: Replay, app: Path, tmp_path: Path
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("print('the own start')")
    parent = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, {str(app)!r}, sys.argv[1]]))"
    command = ("--file", "t.jsonl", sys.executable, "-c", parent, provider.url)
    done = run(
        *command, cwd=tmp_path, PYTHONPATH=os.pathsep.join((str(tmp_path / "site"), BARE.get("PYTHONPATH", ".")))
    )
    assert done.returncode == 7
    assert done.stdout == 3 * "the own start\n" + "the answer is here\n", "of the launcher, the parent and the child"
    assert "chat m" in names_in(tmp_path / "t.jsonl")


def test_the_program_may_set_up_its_own_provider(provider: Replay, app: Path, tmp_path: Path) -> None:
    own = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
mine = TracerProvider()
trace.set_tracer_provider(mine)
assert trace.get_tracer_provider() is mine
"""
    app.write_text(own + APP)
    done = run("--file", "t.jsonl", sys.executable, app, provider.url, cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (7, 1)
    assert "chat m" in names_in(tmp_path / "t.jsonl")


@pytest.mark.parametrize("launcher", ["run --file t.jsonl", "run --file t.jsonl --", "opentelemetry-instrument --"])
def test_a_programs_own_config_option_stays_its_own(launcher: str, tmp_path: Path) -> None:
    """As docs/frameworks.md says it: ``opentelemetry-instrument`` has options that begin so, and needs the ``--``."""
    program = [sys.executable, "-c", "import sys; print(sys.argv[1:])", "--config", "a.yml", "--file", "b"]
    name, *options = launcher.split()
    if name == "run":
        done = run(*options, *program, cwd=tmp_path)
    else:
        command = [str(Path(sys.executable).with_name(name)), *options, *program]
        none = dict.fromkeys(("OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER"), "none")
        done = subprocess.run(command, cwd=tmp_path, env=BARE | none, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "['--config', 'a.yml', '--file', 'b']\n"), done.stderr


def test_what_cannot_be_run_is_said_as_a_shell_says_it(tmp_path: Path) -> None:
    done = run("--console", "no-such-program-here", cwd=tmp_path)
    assert done.returncode == 127
    assert done.stderr == "llmtrace: no-such-program-here: no such program\n", "and no viewer was started for it"
    refused = run("--console", "--view", "true", cwd=tmp_path)
    assert refused.returncode == 1
    assert "exclude each other" in refused.stderr


def test_switched_off_means_untouched(provider: Replay, app: Path, tmp_path: Path) -> None:
    done = run("--file", "t.jsonl", sys.executable, app, provider.url, cwd=tmp_path, OTEL_SDK_DISABLED="true")
    assert done.returncode == 7
    assert not (tmp_path / "t.jsonl").exists()


ELSEWHERE = """
import sys
from llmtrace.cli import main
from llmtrace.launch import destinations

destinations.VIEWER, destinations._VIEWER_STARTS_WITHIN_S = sys.argv.pop(1), float(sys.argv.pop(1))
main()
"""
"""The command line where the viewer's port is another, which nobody else on this machine has taken."""


def test_the_viewer_is_started_where_none_runs_and_stays(provider: Replay, app: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        viewer = f"http://127.0.0.1:{free.getsockname()[1]}"
    environ = BARE | {"XDG_DATA_HOME": str(tmp_path / "data"), "HOME": str(tmp_path)}

    def run_with_viewer() -> subprocess.CompletedProcess[str]:
        program = [sys.executable, str(app), provider.url]
        return subprocess.run(
            [sys.executable, "-c", ELSEWHERE, viewer, str(PATIENCE_S), "run", "--view", *program],
            cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False,
        )  # fmt: skip

    started: Any = None
    try:
        done = run_with_viewer()
        assert done.returncode == 7, done.stderr
        started = int(done.stderr.split("started as process ")[1].split(")")[0])
        assert destinations.is_viewer(viewer)
        again = run_with_viewer()
        assert again.stderr == f"llmtrace: the trace is at {viewer}\n"
        until(lambda: calls_in(viewer) == 2)
    finally:
        if started is not None:
            os.kill(started, signal.SIGTERM)


def calls_in(viewer: str) -> int:
    import urllib.request

    with urllib.request.urlopen(f"{viewer}/api/status", timeout=10) as response:
        return int(json.load(response)["calls"])


def until(condition: Any, seconds: float = PATIENCE_S) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


CONFIGURED = """
import llmtrace
print(llmtrace.configure("ollama", file="mine.jsonl", service_name="shop", service_version="2.1",
    service_instance="i-1", device="Pixel 9", model_fingerprint="fp_9", model_format="bf16", diagnosis=False))
"""


def test_configure_does_the_same_in_one_line(provider: Replay, app: Path, tmp_path: Path) -> None:
    app.write_text(CONFIGURED + APP)
    done = subprocess.run(
        [sys.executable, str(app), provider.url],
        env=BARE, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.stdout == "spans go into mine.jsonl: llmtrace show mine.jsonl\nthe answer is here\n", done.stderr
    assert done.stderr == ""
    written = (tmp_path / "mine.jsonl").read_text()
    assert "chat m" in names_in(tmp_path / "mine.jsonl")
    assert '"shop"' in written
    for told in ("service.version", "service.instance.id", "device.model.name", "llmtrace.model.fingerprint"):
        assert told in written
    assert "host.name" in written


@pytest.mark.parametrize("url", ["", "ftp://x", "http://", "not an address"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(LlmtraceError, match="takes an address such as"):
        choose(otlp=url, environ={})


def test_an_export_has_two_seconds_unless_the_environment_says_otherwise() -> None:
    both = {"OTEL_EXPORTER_OTLP_TIMEOUT": "7", "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT": "0.5"}
    assert [patience({}), patience(both), patience(both, "METRICS")] == [2, 7, 0.5]
    assert patience({"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}) == patience({"OTEL_EXPORTER_OTLP_TIMEOUT": "0"}) == 2
    longest = {patience({"OTEL_EXPORTER_OTLP_TIMEOUT": text}) for text in ("inf", "1e400", "1e10")}
    assert longest == {86_400}, "a time that no system knows would cost every export"


def test_the_typed_settings_are_those_of_instrument() -> None:
    import ast
    import inspect

    from llmtrace import config
    from llmtrace.instrumentation import switch

    tree = ast.parse(inspect.getsource(switch))
    (given,) = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == "Given"]
    fields = {
        node.target.id: ast.unparse(node.annotation)
        for node in given.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    assert set(fields) == set(config.known_settings)
    parameters = inspect.signature(switch.instrument).parameters
    assert fields == {name: parameters[name].annotation.replace('"', "'") for name in fields}


def test_a_port_that_is_somebody_elses_does_not_keep_the_program_from_running(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(Replay()) as other:
        monkeypatch.setattr(destinations, "VIEWER", other.url)
        monkeypatch.setattr(destinations, "COLLECTOR", refused_url())
        chosen = choose(environ={})
    assert (chosen.kind, chosen.place) == ("file", str(tmp_path / destinations.DEFAULT_FILE))


def test_where_no_file_can_be_written_the_program_runs_and_its_calls_are_printed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / destinations.DEFAULT_FILE).mkdir()  # no file of that name can be made here
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(destinations, "VIEWER", refused_url())
    monkeypatch.setattr(destinations, "COLLECTOR", refused_url())
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/dev/null/none"])
    chosen = choose(environ={})
    assert chosen.kind == "console"
    assert "set TMPDIR" in chosen.sentence
    assert "printed here" in chosen.sentence


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "http://[::1", "http://127.0.0.1:0"])
def test_an_impossible_address_is_refused_in_one_line(url: str, tmp_path: Path) -> None:
    done = run("--otlp", url, "true", cwd=tmp_path)
    assert done.returncode == 1
    assert "takes an address such as" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_credentials_are_used_and_never_shown(provider: Replay, app: Path, tmp_path: Path) -> None:
    with closing(Replay()) as collector:
        collector.serve(json_answer({}))
        url = collector.url.replace("//", "//user:sec%40ret@")
        done = run("--otlp", url, "--", sys.executable, app, provider.url, cwd=tmp_path)
        assert done.stderr == f"llmtrace: spans go to {collector.url}\n"
        assert {request.path for request in collector.requests} == {"/v1/traces", "/v1/metrics"}
        sent = {request.headers["authorization"] for request in collector.requests}
        assert sent == {"Basic dXNlcjpzZWNAcmV0"}
    done = run("--otlp", refused_url().replace("//", "//user:secret@"), "true", cwd=tmp_path)
    assert "secret" not in done.stderr
    for user in ("user:secret", "user:a/secret", "user:a?secret", "user:a secret"):
        for scheme in ("http://", ""):
            with pytest.raises(LlmtraceError, match="takes an address such as") as refused:
                choose(otlp=f"{scheme}{user}@127.0.0.1:99999", environ={})
            assert "secret" not in str(refused.value)
            assert "percent-encoded" in str(refused.value)


def test_a_working_folder_that_is_gone_keeps_no_program_from_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert choose(environ={"OTEL_EXPORTER_OTLP_ENDPOINT": "junk://"}).kind == "file"
    with pytest.raises(LlmtraceError, match=r"x\.jsonl cannot be written to, since the working folder is gone"):
        choose(file="x.jsonl", environ={})


@pytest.mark.parametrize("url", ["http://user:se cret@127.0.0.1:9", "http://{}:{}"])
def test_what_is_no_http_is_no_page(url: str) -> None:
    with answering(lambda connection: connection.sendall(b"SSH-2.0\r\n")) as place:
        assert is_a_page(url.format(*place), {}) is None


def test_a_closed_stderr_leaves_the_output_alone(provider: Replay, app: Path, tmp_path: Path) -> None:
    for option in (["--console"], ["--file", "t.jsonl"]):
        line = [sys.executable, "-m", "llmtrace.cli", "run", *option, sys.executable, str(app), provider.url]
        done = subprocess.run(
            ["sh", "-c", 'exec "$@" 2>&-', "sh", *line],
            env=BARE, cwd=tmp_path, stdout=subprocess.PIPE, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (7, "the answer is here\n")


def test_what_is_there_and_cannot_be_run_or_written_is_said_first(app: Path, tmp_path: Path) -> None:
    assert run("--console", f"./{app.name}", cwd=tmp_path).returncode == 126
    assert run("--file", app / "x.jsonl", "true", cwd=tmp_path).returncode == 1, "a file has no files in it"
    refused = run("--file", tmp_path, "true", cwd=tmp_path)
    assert refused.returncode == 1
    assert "cannot be written to" in refused.stderr
    assert "spans go" not in refused.stderr
