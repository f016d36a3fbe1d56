"""The frameworks: what each one's environment holds, and what has to be known of it beside what its run shows."""

from __future__ import annotations

from dataclasses import dataclass

from tests.e2e.frameworks.provider import TEXT


@dataclass(frozen=True)
class Framework:
    """One framework and the program that plays it (``programs/with_NAME.py``)."""

    name: str
    packages: tuple[str, ...]
    """What pip is told to install."""
    shown: tuple[str, ...]
    """Distributions whose versions are named."""
    beneath: str
    """The client that is traced."""
    usage: str
    """How a stream is made to tell its tokens, where it does not by itself."""
    own: str = ""
    """Its own instrumentation, or the one that is made for it; empty: none."""
    text: str = TEXT
    """What the model says, where the framework wants it in a shape."""
    hops: int = 1
    """Spans that each call of a model has: two where both a client and a gateway are traced."""
    environment: str = ""
    """Whose environment it shares."""

    @property
    def program(self) -> str:
        """The program's file name."""
        return f"with_{self.name.replace('-', '_')}.py"


_LANGCHAIN = ("langchain", "langchain-openai", "langgraph", "openinference-instrumentation-langchain")

FRAMEWORKS: tuple[Framework, ...] = (
    Framework(
        "langchain",
        _LANGCHAIN,
        ("langchain", "langchain-openai"),
        "openai",
        "`stream_usage=True`",
        "`openinference-instrumentation-langchain`",
    ),
    Framework(
        "langgraph",
        _LANGCHAIN,
        ("langgraph", "langchain-openai"),
        "openai",
        "`stream_usage=True`",
        "`openinference-instrumentation-langchain`",
        environment="langchain",
    ),
    Framework(
        "llama-index",
        ("llama-index-core", "llama-index-llms-openai", "openinference-instrumentation-llama-index"),
        ("llama-index-core", "llama-index-llms-openai"),
        "openai",
        '`additional_kwargs={"stream_options": {"include_usage": True}}`',
        "`openinference-instrumentation-llama-index`",
    ),
    Framework(
        "openai-agents",
        ("openai-agents", "openinference-instrumentation-openai-agents"),
        ("openai-agents",),
        "openai",
        "`ModelSettings(include_usage=True)`",
        "`openinference-instrumentation-openai-agents`",
    ),
    Framework(
        "pydantic-ai",
        ("pydantic-ai-slim[openai]",),
        ("pydantic-ai-slim",),
        "openai",
        "",
        "its own: `Agent.instrument_all()`",
    ),
    Framework(
        "instructor",
        ("instructor", "openinference-instrumentation-instructor"),
        ("instructor",),
        "openai",
        '`stream_options={"include_usage": True}`',
        "`openinference-instrumentation-instructor`",
    ),
    Framework(
        "dspy",
        ("dspy", "openinference-instrumentation-dspy"),
        ("dspy", "litellm"),
        "litellm",
        "",
        "`openinference-instrumentation-dspy`",
        text=f"[[ ## answer ## ]]\n{TEXT}\n\n[[ ## completed ## ]]",
    ),
    Framework(
        "haystack",
        ("haystack-ai", "opentelemetry-haystack"),
        ("haystack-ai",),
        "openai",
        '`generation_kwargs={"stream_options": {"include_usage": True}}`',
        "`opentelemetry-haystack`",
    ),
    Framework(
        "smolagents",
        ("smolagents[openai]", "openinference-instrumentation-smolagents"),
        ("smolagents",),
        "openai",
        "",
        "`openinference-instrumentation-smolagents`",
    ),
    Framework(
        "autogen",
        ("autogen-agentchat", "autogen-ext[openai]"),
        ("autogen-agentchat", "autogen-ext"),
        "openai",
        "`include_usage=True`",
        "its own, of agents and tools",
    ),
    Framework(
        "semantic-kernel",
        ("semantic-kernel",),
        ("semantic-kernel",),
        "openai",
        "",
        "its own: `SEMANTICKERNEL_EXPERIMENTAL_GENAI_ENABLE_OTEL_DIAGNOSTICS`",
    ),
    Framework(
        "crewai",
        ("crewai", "openinference-instrumentation-crewai"),
        ("crewai",),
        "openai",
        "",
        "`openinference-instrumentation-crewai`",
        text=f"Thought: I now can give a great answer\nFinal Answer: {TEXT}",
    ),
    Framework(
        "litellm-proxy",
        ("litellm[proxy]",),
        ("litellm",),
        "openai before it, litellm in it",
        'by the proxy itself; the client is told with `stream_options={"include_usage": True}`',
        "`callbacks: [otel]`",
        hops=2,
    ),
    Framework(
        "aider",
        ("aider-chat",),
        ("aider-chat", "litellm"),
        "litellm",
        "",
        text="hello.py\n```\nprint('Hello')\n```\n",
    ),
    Framework("llm", ("llm",), ("llm",), "openai", ""),
)
