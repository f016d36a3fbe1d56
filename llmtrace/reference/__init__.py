"""The local reference runner: a real model behind an OpenAI-compatible API, every phase measured where it happens.

Importing this package imports neither torch nor a web server; calling into it does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmtrace.reference._errors import RunnerError, missing_extra

if TYPE_CHECKING:
    from llmtrace.reference.adapters import parse_adapters
    from llmtrace.reference.app import create_app
    from llmtrace.reference.model import LoadedModel, build_or_load
    from llmtrace.reference.process import ServerProcess
    from llmtrace.reference.server import serve

__all__ = [
    "LoadedModel",
    "RunnerError",
    "ServerProcess",
    "build_or_load",
    "create_app",
    "parse_adapters",
    "serve",
]

_HOMES = {
    "LoadedModel": "model",
    "ServerProcess": "process",
    "build_or_load": "model",
    "create_app": "app",
    "parse_adapters": "adapters",
    "serve": "server",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    try:
        return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] == "llmtrace":
            raise
        raise missing_extra(error) from error
