"""Which model runs in this process, as attributes of a call and of the whole process."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.resources import Resource

from llmtrace.emit import names
from llmtrace.errors import LlmtraceError
from llmtrace.providers.model_identity import Identity, identify, identify_engine


def model_resource(model: Any) -> Resource:
    """Resource attributes of a process that serves this one model.

        provider = TracerProvider(resource=Resource.create().merge(llmtrace.model_resource(model)))

    ``model``: a model of ``transformers``, or vLLM's ``LLM`` or ``AsyncLLM``. Every span and metric of the process then
    has ``llmtrace.model.fingerprint``, and ``.dtype`` and ``.quantization`` where they are known.

    Raises:
        LlmtraceError: ``model`` is neither.
    """
    engine = getattr(model, "llm_engine", model)
    config = getattr(engine, "model_config", None)
    if getattr(config, "hf_config", None) is not None:
        return Resource(identity_attributes(identify_engine(config)))
    if not callable(getattr(model, "named_parameters", None)):
        raise LlmtraceError(
            f"model_resource takes a model of transformers or vLLM's engine, not a {type(model).__name__}."
        )
    return Resource(identity_attributes(identify(model)))


def identity_attributes(identity: Identity) -> dict[str, Any]:
    """The attributes of a model's fingerprint, number type, quantization and adapters, as far as they are known."""
    attributes: dict[str, Any] = {names.MODEL_FINGERPRINT: identity.fingerprint}
    if identity.dtype is not None:
        attributes[names.MODEL_DTYPE] = identity.dtype
    if identity.quantization is not None:
        attributes[names.MODEL_QUANTIZATION] = identity.quantization
    if identity.adapters:
        attributes[names.ADAPTERS] = [adapter.name for adapter in identity.adapters]
        attributes[names.ADAPTER_RANKS] = [adapter.rank or 0 for adapter in identity.adapters]
        attributes[names.ADAPTERS_MERGED] = [adapter.merged for adapter in identity.adapters]
    return attributes
