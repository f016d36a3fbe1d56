"""The package's version and the name it is distributed under, both kept in step with pyproject.toml by a test."""

VERSION = "0.1.0"

DISTRIBUTION = "llmtrace-phases"
"""What pip installs. The import is ``llmtrace``, but on PyPI that name belongs to somebody else's package."""


def install_hint(extra: str = "", *, upgrade: bool = False) -> str:
    """The command that installs llmtrace, with an extra if one is named: ``pip install "llmtrace-phases[openai]"``."""
    wanted = f"{DISTRIBUTION}[{extra}]" if extra else DISTRIBUTION
    return f'pip install {"--upgrade " if upgrade else ""}"{wanted}"'
