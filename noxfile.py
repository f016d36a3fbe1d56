"""The client libraries in their oldest and newest supported versions: ``make matrix``, or one of them (``nox -l``).

Each gets an environment of its own, with real installs, and runs its part of the suite that all clients share.
"""

import ast
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.envdir = ".venvs/matrix"
nox.options.error_on_external_run = True

CASES = {
    "openai": "OpenAI or Completions or Responses",
    "anthropic": "Anthropic",
    "groq": "Groq",
    "together": "Together",
    "cerebras": "Cerebras",
    "fireworks": "Fireworks",
    "mistralai": "Mistral",
    "cohere": "Cohere",
    "google-genai": "Google",
    "bedrock": "Bedrock",
    "ollama": "Ollama",
    "huggingface": "HuggingFace",
    "litellm": "LiteLLM",
}
"""Which cases of tests/providers/test_contract.py are the client's."""
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
    "litellm": ("LiteLLM", []),
    "cohere": ("Cohere and not retried", []),  # before its clients could be told how often to retry
    "mistralai": ("Mistral and not missing and not huge", []),  # it refuses the one, and takes minutes over the other
    "bedrock": ("Bedrock", []),
}
"""The same of its oldest version, and what that needs beside it."""
TOOLS = ["pytest", "pytest-asyncio"]


def _clients() -> dict[str, tuple[str, str]]:
    """Distribution and supported versions by client, from the one list of them."""
    path = Path(__file__).parent / "llmtrace" / "providers" / "__init__.py"
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
    distribution, versions = CLIENTS[client]
    cases, beside = OLDEST[client] if age == "oldest" else (CASES[client], [])
    wanted = distribution + versions.replace(">=", "==") if age == "oldest" else distribution
    session.install("--quiet", "--editable", ".", *TOOLS, wanted, *beside)
    session.run("pytest", "tests/providers/test_contract.py", "-k", cases, *session.posargs)


OTHERS = {
    "traceloop": ["opentelemetry-instrumentation-openai"],
    "openinference": ["openinference-instrumentation-openai"],
    # It needs httpx and does not ask for it, and this version of what it does ask for.
    "openai-v2": ["opentelemetry-instrumentation-openai-v2", "httpx", "opentelemetry-util-genai==0.4b0"],
    "genai-openai": ["opentelemetry-instrumentation-genai-openai"],
}
"""Other instrumentations of the OpenAI client; not all of them can be installed together."""


@nox.session
@nox.parametrize("other", list(OTHERS), ids=list(OTHERS))
def beside(session: nox.Session, other: str) -> None:
    """Beside another instrumentation, whichever was switched on first."""
    session.install("--quiet", "--editable", ".", *TOOLS, "openai", *OTHERS[other])
    session.run("pytest", "tests/instrument/test_beside.py", "-k", other, *session.posargs)
