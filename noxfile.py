"""The client libraries, and OpenTelemetry, in their oldest and newest supported versions: ``make matrix``.

Each session (``nox -l``) gets an environment of its own, with real installs, and runs its part of the tests: of clients
the suite that all of them share. What was installed and what came of it goes into docs/supported-versions.md.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import nox

nox.options.default_venv_backend = "uv|venv"
nox.options.envdir = ".venvs/matrix"
nox.options.error_on_external_run = True

CASES = {
    "openai": "(OpenAI or Completions or Responses) and not LiteLLM",
    "anthropic": "Anthropic",
    "groq": "Groq",
    "together": "Together",
    "cerebras": "Cerebras",
    "fireworks": "Fireworks",
    "mistralai": "Mistral",
    "cohere": "Cohere",
    "google-genai": "Google",
    "bedrock": "Bedrock and not Aio",
    "aiobotocore": "AioBedrock",
    "aioboto3": "AioBedrock",
    "ollama": "Ollama",
    "huggingface": "HuggingFace",
    "litellm": "LiteLLM",
}
"""Which cases of tests/providers/test_contract.py are the client's. (aioboto3's beneath is aiobotocore.)"""
OLDEST: dict[str, tuple[str, list[str]]] = {
    "openai": ("OpenAI or Completions", ["httpx<0.28"]),  # before the Responses API
    "anthropic": ("Anthropic", ["httpx<0.28"]),
    "groq": ("Groq", ["httpx<0.28"]),
    "together": ("Together", []),
    "cerebras": ("Cerebras", ["httpx<0.28"]),
    "fireworks": ("Fireworks", []),
    "google-genai": ("Google and not retried", []),  # before it retried
    "ollama": ("Ollama", []),
    "huggingface": ("HuggingFace", []),
    # before its streams could be closed or said that they were cut, and those of messages had the provider's usage
    "litellm": ("LiteLLM and not closed and not LiteLLMMessages and not (LiteLLMResponses and lost)", []),
    "cohere": ("Cohere and not retried", []),  # before its clients could be told how often to retry
    "mistralai": ("Mistral and not missing and not huge", []),  # it refuses the one, and takes minutes over the other
    "bedrock": ("Bedrock and not Aio", []),
    "aiobotocore": ("AioBedrock", []),
}
"""The same of its oldest version, and what that needs beside it."""
TOOLS = ["pytest", "pytest-asyncio"]
ROOT = Path(__file__).parent
PAGE = ROOT / "docs" / "supported-versions.md"


def _clients() -> dict[str, tuple[str, str]]:
    """Distribution and supported versions by client, from the one list of them."""
    path = ROOT / "llmtrace" / "providers" / "__init__.py"
    tree = ast.parse(path.read_text())  # read, not imported: nox has an environment of its own
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Client"]
    lines = [[ast.literal_eval(argument) for argument in call.args] for call in calls]
    return {name: (distribution, versions) for name, _, distribution, versions, *_ in lines}


CLIENTS = _clients()


RUNS = [(client, age) for client in CASES for age in ("oldest", "newest") if age == "newest" or client in OLDEST]


@nox.session
@nox.parametrize("client,age", RUNS, ids=[f"{client}-{age}" for client, age in RUNS])
def clients(session: nox.Session, client: str, age: str) -> None:
    """One client in one version."""
    distribution, versions = CLIENTS.get(client, (client, ""))
    cases, beside = OLDEST[client] if age == "oldest" else (CASES[client], [])
    wanted = distribution + (_oldest(versions) if age == "oldest" else "")
    _install(session, wanted, *beside)
    _test(session, f"{client} {age}", [wanted, *beside], "tests/providers/test_contract.py", "-k", cases)


OTHERS = {
    "traceloop": ["opentelemetry-instrumentation-openai"],
    "openinference": ["openinference-instrumentation-openai"],
    # It needs httpx and does not ask for it, and this version of what it does ask for.
    "openai-v2": ["opentelemetry-instrumentation-openai-v2", "httpx", "opentelemetry-util-genai==0.4b0"],
    "genai-openai": ["opentelemetry-instrumentation-genai-openai"],
    "traceloop-langchain": ["opentelemetry-instrumentation-langchain", "langchain-openai"],
    "openinference-langchain": ["openinference-instrumentation-langchain", "langchain-openai"],
    "genai-langchain": ["opentelemetry-instrumentation-genai-langchain", "langchain-openai"],
}
"""Other instrumentations of the OpenAI client, and of LangChain above it; not all of them can be installed together."""


@nox.session
@nox.parametrize("other", list(OTHERS), ids=list(OTHERS))
def beside(session: nox.Session, other: str) -> None:
    """Beside another instrumentation, whichever was switched on first."""
    _install(session, "openai", *OTHERS[other])
    above = "langchain-openai" in OTHERS[other]
    path = f"tests/instrumentation/test_beside{'_langchain' if above else ''}.py"
    shown = [*OTHERS[other][:1], *(["langchain-core"] if above else [])]
    _test(session, f"openai beside {other}", ["openai", *shown], path, "-k", other)


OTEL = [("3.10", "oldest"), ("3.13", "newest")]
OTEL_TESTS = [
    *("tests/emit", "tests/observe", "tests/instrumentation/test_metrics.py", "tests/instrumentation/test_process.py"),
    *("tests/instrumentation/test_ends.py", "tests/providers/test_first_stream.py", "tests/providers/test_contract.py"),
]


@nox.session
@nox.parametrize("python,age", OTEL, ids=[age for _, age in OTEL])
def otel(session: nox.Session, age: str) -> None:
    """What llmtrace itself needs, in one version, on the Python that is as old or as new."""
    project = nox.project.load_toml(ROOT / "pyproject.toml")["project"]
    needs: list[str] = project["dependencies"] + project["optional-dependencies"]["otlp"]
    needs.append(next(need for need in needs if "instrumentation" in need).replace("n>", "n-httpx>"))
    if age == "oldest":
        needs = [_oldest(need) for need in needs]
    _install(session, *needs, "openai", "anthropic", "httpx", "hypothesis", "genai-prices")
    names = ["opentelemetry-sdk", "opentelemetry-instrumentation", "wrapt", "openai"]
    cases = "not contract or ((OpenAI or Responses) and not LiteLLM)"
    _test(session, f"OpenTelemetry {age}", names, *OTEL_TESTS, "-k", cases)


IN_PROCESS = [(client, age) for client in ("transformers", "llama-cpp-python") for age in ("oldest", "newest")]


@nox.session(venv_backend="venv")  # by pip, which takes the torch that constraints.txt means
@nox.parametrize("client,age", IN_PROCESS, ids=[f"{client}-{age}" for client, age in IN_PROCESS])
def in_process(session: nox.Session, client: str, age: str) -> None:
    """Models in the application's own process. llama.cpp is compiled, and needs ``tests/e2e/setup.sh model llama``."""
    distribution, versions = CLIENTS[client]
    wanted = distribution + (_oldest(versions) if age == "oldest" else "")
    more = ["torch", "openai", "accelerate", "jinja2"] if client == "transformers" else ["opentelemetry-proto"]
    session.install("--quiet", "--constraint", "constraints.txt", "--editable", ".", *TOOLS, wanted, *more)
    path = (
        "tests/instrumentation/test_transformers.py" if client == "transformers" else "tests/e2e/test_llama_python.py"
    )
    session.env.update({"LLMTRACE_E2E": "1", "LLMTRACE_LLAMA_PYTHON": f"{session.bin}/python"})
    _test(session, f"{client} {age}", [wanted, *more[:1]], path)


@nox.session
def zero_code(session: nox.Session) -> None:
    """The package as it is installed, under ``opentelemetry-instrument``: its entry points, and one switched off."""
    names = ["openai", "anthropic", "ollama"]
    session.install("--quiet", f".[{','.join(names)}]", *TOOLS, "httpx", "opentelemetry-instrumentation-httpx")
    _test(session, "zero code", names, "tests/instrumentation/test_process.py", "-k", "zero_code")


@nox.session
def reasks(session: nox.Session) -> None:
    """Libraries that ask again when an answer does not pass a check."""
    _install(session, "openai", "anthropic", "instructor", "pydantic-ai-slim[openai]", "hypothesis")
    session.run("python", "-m", "pytest", "tests/calls/test_repairs.py", *session.posargs)


SESSIONS = [f"{client} {age}" for client, age in RUNS]
SESSIONS += [f"{client} {age}" for client, age in IN_PROCESS] + ["zero code"]
SESSIONS += [f"openai beside {other}" for other in OTHERS] + [f"OpenTelemetry {age}" for _, age in OTEL]


def _oldest(requirement: str) -> str:
    return requirement.replace(">=", "==").replace(" ", "")


def _install(session: nox.Session, *requirements: str) -> None:
    session.install("--quiet", "--editable", ".", *TOOLS, *requirements)


def _test(session: nox.Session, name: str, requirements: Sequence[str], *arguments: str) -> None:
    """Run tests, and write into the page what came of it."""
    report = Path(session.create_tmp()) / "report.xml"
    session.run("pytest", *arguments, f"--junitxml={report}", *session.posargs, success_codes=[0, 1])
    suite = next(ElementTree.parse(report).iter("testsuite"))
    told = {key: int(suite.get(key, 0)) for key in ("tests", "skipped", "failures", "errors")}
    failed = told["failures"] + told["errors"]
    if not session.posargs:  # else it was a part
        told["passed"] = told["tests"] - told["skipped"] - failed
        counts = {"passed": told["passed"], "**failed**": failed}
        shown = ["python", *requirements] if name.startswith("OpenTelemetry") else requirements
        installed = _versions(session, [re.split(r"[=<>]", each)[0] for each in shown])
        _record(name, installed, counts)
    if failed:
        session.error(f"{failed} failed")


def _versions(session: nox.Session, names: Sequence[str]) -> list[str]:
    """Names, ``python`` among them, with the versions that are installed."""
    script = (
        "import platform, sys; from importlib.metadata import version;"
        "print(*(f'Python {platform.python_version()}' if name == 'python' else f'{name} {version(name)}'"
        " for name in dict.fromkeys(sys.argv[1:])), sep='\\n')"
    )
    return str(session.run("python", "-c", script, *names, silent=True)).strip().splitlines()


def _record(name: str, versions: Sequence[str], counts: Mapping[str, int]) -> None:
    """Put a session's result in the place of its earlier one: a row for what was tested, a cell for its age."""
    before, begin, rest = PAGE.read_text().partition("<!-- make matrix -->\n")
    table, end, after = rest.partition("<!-- end -->")
    rows = {row[0]: row for row in ([cell.strip() for cell in line.split("|")[1:4]] for line in table.splitlines()[2:])}
    what, age = _what(name)
    row = rows.setdefault(what, [what, "", ""])
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    row[1 + (age == "newest")] = f"{', '.join(versions).removeprefix(f'{what} ')}: {told}"
    known = dict.fromkeys(_what(each)[0] for each in SESSIONS)
    lines = ["| what | oldest | newest |", "|---|---|---|"]
    lines += [f"| {' | '.join(rows[each])} |" for each in known if each in rows]
    PAGE.write_text(before + begin + "\n".join(lines) + "\n" + end + after)


def _what(name: str) -> tuple[str, str]:
    """A session's row and column: ``openai oldest`` is of openai; what has one age only is new."""
    what, _, age = name.rpartition(" ")
    return (what, age) if age in ("oldest", "newest") else (name, "newest")
