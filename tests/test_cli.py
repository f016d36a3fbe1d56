"""The command line in processes of its own: exit codes, one clear line, no traceback, no secrets."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints
from unittest import mock

import pytest
from rich.console import Console
from typer.models import ArgumentInfo

from llmtrace import doctor
from llmtrace.cli import build_app
from llmtrace.commands import common, interrupts
from llmtrace.doctor import packages
from llmtrace.launch import destinations
from llmtrace.version import DISTRIBUTION, VERSION
from llmtrace.wording import lines
from tests.support.grpc_collector import GrpcCollector
from tests.support.replay import Replay, Script, json_answer
from tests.support.warm import COMMAND, warm

SPAN = {
    "traceId": "4bf92f3577b34da6a3ce929d0e0e4736",
    "spanId": "00f067aa0ba902b7",
    "name": "chat smol",
    "kind": 3,
    "startTimeUnixNano": "1760000000000000000",
    "endTimeUnixNano": "1760000001000000000",
    "attributes": [{"key": "gen_ai.operation.name", "value": {"stringValue": "chat"}}],
}
LINE = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [SPAN]}]}]})


def environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "LLMTRACE_"))}
    return {**kept, "COLUMNS": "80", "NO_COLOR": "1", "PYTHONUTF8": "1", **changes}


def by_fork(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """``llmtrace`` in a process of its own, without an interpreter's start and imports."""
    program = "from llmtrace.cli import main; main()"
    return warm(*COMMAND).run(program, *map(str, arguments), env=environment(), cwd=Path.cwd())


def llmtrace(*arguments: str | Path, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llmtrace.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment(**changes),
        timeout=120,
        check=False,
    )


PATIENT = {"OTEL_EXPORTER_OTLP_TIMEOUT": "120"}
"""For a collector that is a thread of ours, on a machine that may be busy."""


def examined(everything: bool = True, **changes: str) -> subprocess.CompletedProcess[str]:
    """What ``llmtrace doctor`` prints in this environment, without the seconds that a process of its own takes."""
    out = io.StringIO()
    console = Console(file=out, width=80, no_color=True, highlight=False)
    with mock.patch.object(packages, "device", return_value=()):  # it imports torch, which takes seconds
        code = doctor.run(console, environment(**changes), everything=everything)
    return subprocess.CompletedProcess(["doctor"], code, out.getvalue(), "")


def one_line(result: subprocess.CompletedProcess[str], code: int = 1) -> str:
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("llmtrace: ")
    return line


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "traces.otlp.jsonl"
    path.write_text(LINE + "\n")
    return path


HELPED = """
import sys
from llmtrace.cli import main

for command in sys.argv[1:]:
    sys.argv = ["llmtrace", command, "-h"]
    try:
        main()
    except SystemExit as end:
        print("exit", command, end.code or 0)
"""
"""One process for the help of several commands."""


def test_version_and_help() -> None:
    assert llmtrace("--version").stdout == f"llmtrace {VERSION}\n"
    helped = llmtrace("--help")
    assert helped.returncode == 0
    assert all(command in helped.stdout for command in ("serve", "demo", "show", "doctor"))
    commands = ["serve", "demo", "show", "doctor"]
    done = subprocess.run(
        [sys.executable, "-c", HELPED, *commands],
        capture_output=True, text=True, env=environment(), timeout=120, check=False,
    )  # fmt: skip
    assert [line for line in done.stdout.splitlines() if line.startswith("exit ")] == [f"exit {c} 0" for c in commands]


@pytest.mark.parametrize(
    "arguments", [["nothing"], ["show"], ["show", "x", "--limit", "0"], ["serve", "--device", "tpu"], ["demo", "--no"]]
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    result = by_fork(*arguments)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "Usage:" in result.stderr


def test_show(file: Path) -> None:
    result = by_fork("show", file)
    assert (result.returncode, result.stderr) == (0, "")
    assert "chat smol" in result.stdout
    assert "1.00 s" in result.stdout
    assert "\x1b" not in result.stdout


def test_show_in_an_ascii_terminal(file: Path) -> None:
    result = llmtrace("show", file, PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert result.returncode == 0, result.stderr
    assert "####" in result.stdout


def test_show_chooses(file: Path) -> None:
    assert by_fork("show", file, "--trace", "4bf9", "--limit", "1").returncode == 0
    assert "none of its 1 trace has an id beginning with 'abc'" in one_line(by_fork("show", file, "--trace", "abc"))


def test_show_tells_what_it_skipped(file: Path) -> None:
    file.write_text(f"{LINE}\nbroken\n")
    result = by_fork("show", file)
    assert result.returncode == 0
    assert "line 2: not valid JSON" in result.stderr
    assert "chat smol" in result.stdout
    assert f"{file}:2: not valid JSON" in one_line(by_fork("show", file, "--strict"))


def test_show_what_cannot_be_read(tmp_path: Path) -> None:
    assert "no such file" in one_line(by_fork("show", tmp_path / "none"))
    assert "is a directory" in one_line(by_fork("show", tmp_path))
    (tmp_path / "empty").write_text("")
    assert "no spans" in one_line(by_fork("show", tmp_path / "empty"))


def test_show_writes_a_page(file: Path, tmp_path: Path) -> None:
    page = tmp_path / "deep" / "page.html"
    result = by_fork("show", file, "--html", page)
    assert result.returncode == 0, result.stderr
    assert "chat smol" in page.read_text(encoding="utf-8")
    assert "cannot write" in one_line(by_fork("show", file, "--html", tmp_path))


def test_a_reader_that_leaves_is_no_error_to_speak_of(file: Path) -> None:
    lines = [LINE.replace("4bf92f3577b34da6", f"{number:016x}") for number in range(1, 4000)]
    file.write_text("\n".join(lines))
    process = subprocess.Popen(
        [sys.executable, "-m", "llmtrace.cli", "show", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) in (0, 1)
    process.stderr.close()


WAITING = """
import sys, types
fake = types.ModuleType("llmtrace.reference")
def serve(**given):
    print(sorted(given), flush=True)
    import time
    time.sleep(60)
fake.serve = serve
fake.parse_adapters = dict
sys.modules["llmtrace.reference"] = fake
import llmtrace
llmtrace.reference = fake
from llmtrace.cli import main
sys.argv = ["llmtrace", "serve"]
main()
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_is_exit_code_130_and_quiet() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert b"max_queue" in process.stdout.readline()
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors == b""


COUNTING = """
import os, signal, threading
import duckdb
from llmtrace.commands.common import guarded

query = duckdb.sql("SELECT count(*) FROM range(1000000000000) WHERE range % 7 = 3")
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
guarded(query.fetchall)()
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_while_duckdb_works_is_quiet_too() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COUNTING], env=environment(), capture_output=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (130, b"")


DYING = """
import signal, sys, time
from llmtrace import cli

class Dying:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
        sum(range(9))

class Holder:
    def __del__(self):
        del self.held
        time.sleep(0)

def command(**given):
    holder = Holder()
    holder.held = Dying()
    del holder
    time.sleep(60)

cli.guarded = lambda app: guarded(command)
from llmtrace.commands.common import guarded
sys.argv = ["llmtrace", "show"]
cli.main()
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_in_a_destructor_is_heard_and_quiet() -> None:
    """Python alone prints where it struck, and goes on."""
    done = subprocess.run(
        [sys.executable, "-c", DYING], env=environment(), capture_output=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (130, b"")


def test_other_faults_of_destructors_are_told_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dying:
        def __del__(self) -> None:
            raise ValueError

    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda fault: told.append(fault.exc_type))
    before = sys.unraisablehook
    with interrupts.heard():
        Dying()
    assert told == [ValueError]
    assert sys.unraisablehook is before


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("arguments", [["-m", "llmtrace.cli", "doctor"], ["-c", "print('never')"]])
def test_ctrl_c_while_modules_load_is_quiet_too(arguments: list[str], tmp_path: Path) -> None:
    """The command, and a program that ``llmtrace run`` starts: what they import first prints and goes on for long."""
    slow = "import os, time\nos.write(1, b'loading\\n')\ntime.sleep(60)\n"
    (tmp_path / "typer.py").write_text(slow)
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").write_text(slow)
    site = Path(destinations.__file__).parent / "site"
    launched = destinations.Destination("file", str(tmp_path / "traces")).to_environ()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(**launched, PYTHONPATH=os.pathsep.join([str(site), str(tmp_path), *sys.path])),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"loading\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGINT  # a shell says 130
    assert errors == b""


WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
from llmtrace.cli import main
sys.argv = ["llmtrace", *{arguments!r}]
main()
"""


def without(missing: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(missing=missing, arguments=arguments)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_what_came_with_it(missing: str) -> None:
    assert f'{missing} is missing, which came with llmtrace: pip install --upgrade "llmtrace-phases"' in one_line(
        without([missing], "doctor")
    )


@pytest.mark.parametrize("missing", ["torch", "starlette", "uvicorn"])
def test_serve_without_the_reference_extra(missing: str) -> None:
    line = one_line(without([missing], "serve", "--port", "0"))
    assert missing in line
    assert 'pip install "llmtrace-phases[reference]"' in line


def test_all_that_is_missing_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    common.require("demo", "json", "opentelemetry.trace")
    with pytest.raises(SystemExit):
        common.require("demo", "json", "no_such_one", "no_such.two", "opentelemetry.no_such_three")
    assert capsys.readouterr().err == (
        "llmtrace: no_such_one, no_such.two and opentelemetry.no_such_three are not installed: "
        'pip install "llmtrace-phases[demo]"\n'
    )


def test_a_file_that_may_not_be_read_is_said_like_every_other_mistake() -> None:
    callbacks = [command.callback for command in build_app().registered_commands if command.callback is not None]
    files = [
        hint.__metadata__[0]
        for callback in callbacks
        for hint in get_type_hints(callback, include_extras=True).values()
        if get_origin(hint) is Annotated and isinstance(hint.__metadata__[0], ArgumentInfo) and Path in leaves(hint)
    ]
    assert len(files) >= 2
    assert not any(file.readable for file in files), "the option parser would answer with its usage"


def leaves(hint: Any) -> tuple[Any, ...]:
    """The classes of a hint such as ``Annotated[Path | None, ...]``."""
    bare = get_args(hint)[0]
    return get_args(bare) or (bare,)


def test_a_command_that_doctor_names_stays_in_one_line() -> None:
    commands = [f'pip install "{DISTRIBUTION}[openai]"']
    commands.append("llmtrace show traces.otlp.jsonl")
    sentence = f"Traced: nothing ({commands[0]}). Spans: they go into a file, to be read by {commands[1]}."
    for width in range(1, 90):
        wrapped = lines(sentence, width)
        assert " ".join(wrapped) == sentence
        assert all(any(command in line for line in wrapped) for command in commands)
        assert max(map(len, wrapped)) <= max(width, *map(len, commands)) + len("().")


@pytest.mark.parametrize(
    "arguments", [("show", "no-such-folder/and-no-such-file.jsonl"), ("run", "no-such-program", "x")]
)
def test_what_is_wrong_is_told_in_lines_as_wide_as_the_terminal(arguments: tuple[str, ...], tmp_path: Path) -> None:
    reader, writer = pty.openpty()
    try:
        fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 30, 0, 0))
        command = [sys.executable, "-m", "llmtrace.cli", *arguments]
        done = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=writer, env=environment(), cwd=tmp_path, timeout=120, check=False
        )
        told = os.read(reader, 4096).decode().splitlines()
    finally:
        os.close(reader)
        os.close(writer)
    assert done.returncode in (1, 127)
    assert len(told) > 1
    assert all(len(line) <= 30 or " " not in line for line in told), told
    assert " ".join(told).startswith("llmtrace: ")


def test_doctor_says_what_is_there() -> None:
    result = llmtrace("doctor", "--all")
    assert result.returncode == 0, result.stdout
    assert result.stderr == ""
    for words in ("opentelemetry-sdk", "openai", "sampler", "http://localhost:4318", "Tracing is possible here."):
        assert words in result.stdout


def test_doctor_says_only_what_is_wrong_unless_asked_for_all() -> None:
    fine = examined(everything=False)
    assert fine.stdout.startswith("Traced: "), "what is not installed and not needed is nothing wrong"
    assert "Spans: under llmtrace run, " in fine.stdout
    assert "sampler" not in fine.stdout
    wrong = examined(everything=False, LLMTRACE_MIN_CALLS="x")
    assert "! LLMTRACE_MIN_CALLS  its value is ignored; it takes a number of at least 2" in wrong.stdout
    assert "unset LLMTRACE_MIN_CALLS  # LLMTRACE_MIN_CALLS" in wrong.stdout
    assert wrong.returncode == 0, "what is ignored keeps nothing from being traced"


def test_doctor_never_prints_a_secret() -> None:
    result = examined(
        OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20sk-SECRET1,x-key=SECRET2",
        OTEL_EXPORTER_OTLP_TRACES_HEADERS="SECRET3",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://user:SECRET4@localhost:1/SECRET5?key=SECRET6",
        OTEL_RESOURCE_ATTRIBUTES="token=SECRET7",
        OTEL_EXPORTER_OTLP_CLIENT_KEY="/home/SECRET8",
        OTEL_SERVICE_NAME="good name",
        LLMTRACE_API_KEY="SECRET9",
        LLMTRACE_PROPAGATE="SECRET10",
        OTEL_PYTHON_SOMETHING="SECRET11",
        OPENAI_API_KEY="sk-SECRET12",
    )
    assert "SECRET" not in result.stdout
    assert "sends authorization, x-key (values not shown)" in result.stdout
    assert "http://localhost:1" in result.stdout
    assert "good name" in result.stdout
    assert "LLMTRACE_API_KEY" in result.stdout
    assert "auto or always or never" in result.stdout
    assert result.returncode == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"OTEL_SDK_DISABLED": "true"},
        {"OTEL_TRACES_SAMPLER": "always_off"},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"},
        {"OTEL_TRACES_EXPORTER": "nowhere"},
    ],
)
def test_doctor_fails_where_tracing_is_impossible(changes: dict[str, str]) -> None:
    result = examined(True, **changes)
    assert result.returncode == 1
    assert "Tracing is not possible here" in result.stdout


def test_doctor_tells_of_doubtful_settings() -> None:
    result = examined(
        LLMTRACE_MIN_CALS="5",
        OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="llmtrace-openai",
        OTEL_TRACES_EXPORTER="console",
        OTEL_TRACES_SAMPLER="parentbased_traceidratio",
        OTEL_TRACES_SAMPLER_ARG="0.25",
    )
    assert result.returncode == 0
    assert "unknown, did you mean LLMTRACE_MIN_CALLS?" in result.stdout
    assert "switched off by OTEL_PYTHON_DISABLED_INSTRUMENTATIONS" in result.stdout
    assert "parentbased_traceidratio 0.25" in result.stdout


def test_doctor_tries_an_export() -> None:
    with closing(Replay()) as collector:
        collector.serve(json_answer({}))
        tried = examined(
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20k", **PATIENT
        )
        assert f"OTEL_EXPORTER_OTLP_ENDPOINT  {collector.url} over HTTP took an empty export" in tried.stdout
        first = collector.requests[0]
        assert (first.path, first.headers["authorization"]) == ("/v1/traces", "Bearer k")
    with closing(Replay()) as collector:
        collector.serve(json_answer({}, status=401))
        tried = examined(False, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{collector.url}/exact", **PATIENT)
        assert "401, it wants credentials: set OTEL_EXPORTER_OTLP_HEADERS" in tried.stdout
        assert [request.path for request in collector.requests] == ["/exact"]
    with closing(Replay()) as page:
        page.serve(Script(200, {"content-type": "text/html"}, [(0.0, b"<html></html>")]))
        wrong_header = {"OTEL_EXPORTER_OTLP_HEADERS": "Bearer SECRET"}
        tried = examined(False, OTEL_EXPORTER_OTLP_ENDPOINT=page.url, **wrong_header, **PATIENT)
        assert "it answers with a page" in tried.stdout
        assert "OTEL_EXPORTER_OTLP_HEADERS" in tried.stdout
        assert "is not NAME=VALUE" in tried.stdout
        assert "SECRET" not in tried.stdout
    for wrong in ("http://", "http://host:notaport", "::::"):
        result = examined(False, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=wrong)
        assert result.returncode == 0
        assert "the endpoint is not a URL" in result.stdout


def test_doctor_tries_the_places_that_metrics_and_logs_have_of_their_own() -> None:
    with closing(Replay()) as collector:
        collector.serve(json_answer({}))
        own = {
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{collector.url}/m",
            "OTEL_EXPORTER_OTLP_METRICS_HEADERS": "x-key=metrics",
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": f"{collector.url}/l",
            "OTEL_EXPORTER_OTLP_HEADERS": "x-key=all",
        }
        tried = examined(True, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **own, **PATIENT)
        for name in ("METRICS_ENDPOINT", "LOGS_ENDPOINT", "ENDPOINT"):
            assert f"OTEL_EXPORTER_OTLP_{name} " in tried.stdout
        assert tried.stdout.count(f"{collector.url} over HTTP took an empty export") >= 3
        sent = {(request.path, request.headers.get("x-key")) for request in collector.requests if request.body == b""}
        assert {("/m", "metrics"), ("/l", "all"), ("/v1/traces", "all")} <= sent
    gone = examined(False, OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=collector.url, **PATIENT)
    assert "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT" in gone.stdout
    assert "nobody listens" in " ".join(gone.stdout.split())


def test_doctor_tries_an_export_over_grpc() -> None:
    collector = GrpcCollector()
    try:
        over_grpc = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
        tried = examined(False, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **over_grpc, **PATIENT)
        assert f"Spans: {collector.url} over gRPC took an empty export" in " ".join(tried.stdout.split())
        assert collector.exports == 1
    finally:
        collector.close()
    with closing(Replay()) as http_only:
        tried = examined(False, OTEL_EXPORTER_OTLP_ENDPOINT=http_only.url, **over_grpc)
        assert "UNAVAILABLE, it does not speak gRPC" in tried.stdout


def test_doctor_tries_a_target_that_grpc_knows_by_itself() -> None:
    """The same that ``llmtrace run`` takes: no address of http, and none the worse for it."""
    tried = examined(
        False, OTEL_EXPORTER_OTLP_ENDPOINT="unix:///tmp/nobody-is-here", OTEL_EXPORTER_OTLP_PROTOCOL="grpc"
    )
    assert "is not a URL" not in tried.stdout
    assert "over gRPC: UNAVAILABLE" in " ".join(tried.stdout.split())


def test_doctor_under_llmtrace_run(tmp_path: Path) -> None:
    arguments = ["run", "--file", tmp_path / "t.jsonl", "--", sys.executable, "-m", "llmtrace", "doctor", "--all"]
    everything = llmtrace(*arguments).stdout
    assert f"sends them: {tmp_path / 't.jsonl'}" in " ".join(everything.split())
    assert "openai 3." not in everything or "patched in this process as soon as it is imported" in everything
    assert "LLMTRACE_RUN_KIND" in everything
    assert "unknown" not in everything


def test_doctor_without_torch_and_the_client() -> None:
    # A package whose files are gone but whose metadata is there: told, and no traceback.
    result = without(["torch"], "doctor")
    assert result.returncode == 0, result.stderr
    assert "cannot be imported" in result.stdout


def test_a_closed_output_is_no_mistake(tmp_path: Path) -> None:
    """A program is run, and a file is read, where nobody keeps an output open (``>&-``)."""
    file, told = tmp_path / "traces.jsonl", tmp_path / "told"
    file.write_text(LINE)
    program = f"import sys; open({str(told)!r}, 'w').write(str(sys.stdout))"
    for words in (["show", file], ["--version"], ["run", "--console", "--", sys.executable, "-c", program]):
        command = [sys.executable, "-m", "llmtrace.cli", *map(str, words)]
        result = subprocess.run(
            ["sh", "-c", 'exec "$@" >&-', "sh", *command],
            stderr=subprocess.PIPE, text=True, env=environment(), timeout=120, check=False,
        )  # fmt: skip
        assert (result.returncode, "Traceback" in result.stderr) == (0, False), result.stderr
    assert told.read_text() == "None"
