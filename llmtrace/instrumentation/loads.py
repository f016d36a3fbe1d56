"""Loads of models into this process: the functions that a provider's declaration names, timed from outside.

The outermost of them is the load; those that it calls (``pipeline`` calls ``from_pretrained``) are part of it. Files
that huggingface_hub downloads meanwhile are its download, a model that moves to another device its way there.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from opentelemetry.instrumentation.utils import is_instrumentation_enabled

from llmtrace.calls import model_loads
from llmtrace.calls.tracer import CallTracer
from llmtrace.emit import names
from llmtrace.emit.model_load import emit_model_load
from llmtrace.instrumentation.patching import Patches
from llmtrace.observe import internal_errors
from llmtrace.observe.clock import now
from llmtrace.observe.loading import Loading
from llmtrace.observe.process import after_fork
from llmtrace.phases.model import TO_DEVICE
from llmtrace.providers.declare import Load, Provider

_loading: ContextVar[Loading | None] = ContextVar("llmtrace_loading", default=None)
"""The load under way in this context."""
_under_way: list[Loading] = []
"""Those of all threads: huggingface_hub downloads a model's files on threads of its own."""


def _forked() -> None:
    """In a child, the loads of the parent's other threads do not go on."""
    _under_way[:] = [loading for loading in (_loading.get(),) if loading is not None]


after_fork(_forked)


def patch(patches: Patches, tracer: CallTracer, provider: Provider, hook: Load) -> None:
    """Time the function that ``hook`` names, now or when its module is imported."""

    def load(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if _loading.get() is not None or not is_instrumentation_enabled():
            return wrapped(*args, **kwargs)
        loading = Loading(hook.rest)
        token = _loading.set(loading)
        _under_way.append(loading)
        try:
            result = wrapped(*args, **kwargs)
        except BaseException as error:
            _ended(tracer, provider, hook, loading, None, error, asked=(args, kwargs))
            raise
        finally:
            _under_way.remove(loading)
            _loading.reset(token)
        _ended(tracer, provider, hook, loading, instance if result is None else result, None)
        return result

    def move(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        loading, before, start = _loading.get(), _device(instance), now()
        alone = Loading(TO_DEVICE) if loading is None and model_loads.is_unused(instance) else None
        result = wrapped(*args, **kwargs)
        if before is not None and _device(instance) not in (before, None):
            if loading is not None:
                loading.measured(TO_DEVICE, start)
            elif alone is not None:
                _ended(tracer, provider, hook, alone, instance, None)
        return result

    patches.when_imported(hook.module, lambda module: patches.wrap(module, hook.path, load))
    for path in hook.moves:
        patches.when_imported(hook.module, lambda module, path=path: patches.wrap(module, path, move))


def patch_downloads(patches: Patches) -> None:
    """See what huggingface_hub downloads."""

    def download(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = wrapped(*args, **kwargs)
        loading = _loading.get() or (_under_way[0] if len(_under_way) == 1 else None)
        if loading is not None:
            loading.downloaded(kwargs.get("expected_size"))
        return result

    def hook_downloads(module: Any) -> None:
        for name in ("http_get", "xet_get"):
            patches.wrap(module, name, download)

    patches.when_imported("huggingface_hub.file_download", hook_downloads)


def _ended(
    tracer: CallTracer,
    provider: Provider,
    hook: Load,
    loading: Loading,
    result: Any,
    error: BaseException | None,
    asked: tuple[tuple[Any, ...], Mapping[str, Any]] | None = None,
) -> None:
    """Write the load, and remember it for the first call of its model. ``asked``: the arguments of one that failed."""
    try:
        loading.finish()
        model = None if result is None else hook.model(result)
        attributes: dict[str, Any] = {names.PROVIDER: provider.provider_name(model, None)}
        if model is not None:
            attributes[names.REQUEST_MODEL] = hook.name(model)
        elif asked is not None:
            attributes[names.REQUEST_MODEL] = hook.asked(*asked)
        span = emit_model_load(tracer.services.telemetry.tracer(), loading, attributes, error=error)
        if model is not None:
            model_loads.remember(model, model_loads.Loaded(span, loading.seconds))
    except Exception as ours:
        internal_errors.note("ending a model's load", ours)


def _device(model: Any) -> Any:
    try:
        return model.device
    except Exception:
        return None
