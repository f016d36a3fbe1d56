"""Our names are the conventions': those of the released page, and the constants of the package that is installed."""

from __future__ import annotations

import ast
import importlib.metadata
import re
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
from opentelemetry.semconv.attributes import error_attributes, http_attributes, server_attributes

from llmtrace import conventions
from llmtrace.emit import names

PACKAGE = Path(conventions.__file__).parent


def words(text: str) -> set[str]:
    return set(text.split())


# semantic-conventions-genai v0.1.0: docs/gen-ai/client-inference.md and client-embeddings.md, the tables of attributes
# (as they stood shortly before the tag, whose own model/gen-ai/spans.yaml has the same names).
ATTRIBUTES = words(
    """
    gen_ai.operation.name gen_ai.provider.name gen_ai.conversation.id gen_ai.output.type gen_ai.prompt.name
    gen_ai.prompt.version gen_ai.request.choice.count gen_ai.request.model gen_ai.request.seed gen_ai.request.stream
    gen_ai.request.top_k gen_ai.conversation.compacted gen_ai.request.frequency_penalty gen_ai.request.max_tokens
    gen_ai.request.presence_penalty gen_ai.request.previous_response.id gen_ai.request.reasoning.level
    gen_ai.request.stop_sequences gen_ai.request.temperature gen_ai.request.top_p gen_ai.response.finish_reasons
    gen_ai.response.id gen_ai.response.model gen_ai.response.time_to_first_chunk gen_ai.usage.input_tokens
    gen_ai.usage.output_tokens gen_ai.usage.cache_read.input_tokens gen_ai.usage.cache_write.input_tokens
    gen_ai.usage.reasoning.output_tokens gen_ai.usage.text.input_tokens gen_ai.usage.image.input_tokens
    gen_ai.usage.audio.input_tokens gen_ai.usage.text.output_tokens gen_ai.usage.image.output_tokens
    gen_ai.usage.audio.output_tokens gen_ai.usage.text.cache_read.input_tokens
    gen_ai.usage.image.cache_read.input_tokens gen_ai.usage.audio.cache_read.input_tokens gen_ai.input.messages
    gen_ai.output.messages gen_ai.system_instructions gen_ai.tool.definitions gen_ai.embeddings.dimension.count
    gen_ai.request.encoding_formats gen_ai.token.modality gen_ai.agent.id gen_ai.tool.name
    """
)
# What reports read of others' spans: the same repository's pages on agents and on events.
READ = words(
    """
    gen_ai.agent.name gen_ai.workflow.name gen_ai.evaluation.name gen_ai.evaluation.score.value
    gen_ai.evaluation.result
    """
)
# The same pages' tables of contents, those of the inference metrics as the tag has them; and from gen-ai-metrics.md the
# one metric that a step of ours has.
METRICS = words(
    """
    gen_ai.client.inference.duration gen_ai.client.inference.time_to_first_chunk
    gen_ai.client.inference.time_per_output_chunk gen_ai.client.inference.usage.input_tokens
    gen_ai.client.inference.usage.output_tokens gen_ai.client.inference.usage.cache_read.input_tokens
    gen_ai.client.inference.usage.cache_write.input_tokens gen_ai.client.inference.usage.reasoning.output_tokens
    gen_ai.client.inference.operation.input_tokens gen_ai.client.inference.operation.output_tokens
    gen_ai.client.embeddings.duration gen_ai.client.embeddings.operation.input_tokens
    gen_ai.client.operation.duration gen_ai.execute_tool.duration
    """
)
EVENTS = {"gen_ai.client.inference.operation.details", "gen_ai.client.operation.exception"}
# semantic-conventions v1.41.0, docs/gen-ai/gen-ai-metrics.md: what v0.1.0 has renamed or removed.
OLD = {
    "gen_ai.client.operation.time_to_first_chunk",
    "gen_ai.client.operation.time_per_output_chunk",
    "gen_ai.client.token.usage",
    "gen_ai.token.type",
}
# Names of others, which llmtrace reads in their files or, of engines, writes as vLLM does (the reference server).
FOREIGN = {
    "gen_ai.system", "gen_ai.usage.prompt_tokens", "gen_ai.usage.completion_tokens", "gen_ai.request.id",
    "gen_ai.usage.cached_tokens",
}  # fmt: skip


def ours() -> dict[str, str]:
    found = {name: value for name, value in vars(conventions).items() if name.isupper() and isinstance(value, str)}
    return {name: value for name, value in found.items() if value.startswith("gen_ai.")}


def test_every_name_is_on_the_released_page() -> None:
    assert set(ours().values()) - OLD <= ATTRIBUTES | METRICS | EVENTS | READ
    metrics = {value for name, value in ours().items() if name.startswith("M_")}
    assert metrics - OLD == METRICS, "and no metric of the page is missing"


def test_every_name_is_written_once() -> None:
    values = list(ours().values())
    assert sorted(values) == sorted(set(values))


def literals() -> dict[str, set[str]]:
    """Every ``gen_ai.*`` in our code, and where."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            value = node.value if isinstance(node, ast.Constant) else None
            if isinstance(value, str) and re.fullmatch(r"gen_ai(\.[a-z_]+)+", value):
                found.setdefault(value, set()).add(str(path.relative_to(PACKAGE)))
    return found


def test_every_literal_in_the_code_is_a_name_that_exists() -> None:
    found = literals()
    unknown = {
        name: where for name, where in found.items() if name not in ATTRIBUTES | METRICS | EVENTS | READ | OLD | FOREIGN
    }
    assert {name for name in unknown if not name.startswith("gen_ai.latency.")} == set(), unknown
    assert {place for name, where in found.items() if name.startswith("gen_ai.latency.") for place in where} <= {
        "reference/spans.py",
        "analyze/engine_spans.py",
    }, "vLLM's names, which only the reference server writes and the reports read"


def test_providers_take_names_from_one_place() -> None:
    assert {name: where for name, where in literals().items() if any("providers" in place for place in where)} == {}


def constants() -> dict[str, str]:
    """The GenAI constants of the installed package: attributes and metrics, by value."""
    found: dict[str, str] = {}
    for module in (gen_ai_attributes, gen_ai_metrics):
        for name, value in vars(module).items():
            if name.startswith("GEN_AI_") and isinstance(value, str):
                found[value] = name
    return found


def test_what_the_installed_package_names_is_named_alike() -> None:
    """No name of ours differs from a constant by a slip: what it has a constant for is that very string."""
    known = constants()
    assert known, importlib.metadata.version("opentelemetry-semantic-conventions")
    shared = set(ours().values()) & known.keys()
    assert {
        "gen_ai.operation.name",
        "gen_ai.request.model",
        "gen_ai.response.finish_reasons",
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.output_tokens",
        "gen_ai.client.operation.duration",
        "gen_ai.client.token.usage",
    } <= shared
    assert conventions.SERVER_ADDRESS == server_attributes.SERVER_ADDRESS == "server.address"
    assert conventions.SERVER_PORT == server_attributes.SERVER_PORT == "server.port"
    assert conventions.ERROR_TYPE == error_attributes.ERROR_TYPE == "error.type"
    assert conventions.STATUS_CODE == http_attributes.HTTP_RESPONSE_STATUS_CODE
    assert conventions.RESEND_COUNT == http_attributes.HTTP_REQUEST_RESEND_COUNT


def used() -> list[tuple[str, str]]:
    """The constants that the module asks for, and the name beside each."""
    tree = ast.parse(Path(conventions.__file__).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    return [
        (ast.literal_eval(call.args[0]), ast.literal_eval(call.args[1]))
        for call in calls
        if call.func.id in ("_attribute", "_metric")  # type: ignore[union-attr]
    ]


def test_the_constants_used_exist_and_say_what_is_written_beside_them() -> None:
    assert len(used()) >= 15
    for constant, name in used():
        module: Any = gen_ai_attributes if hasattr(gen_ai_attributes, constant) else gen_ai_metrics
        assert getattr(module, constant) == name


# The constants of opentelemetry-semantic-conventions 0.51b0, the oldest version supported, for names that we write.
OLDEST = words(
    """
    gen_ai.operation.name gen_ai.request.model gen_ai.request.seed gen_ai.request.top_k
    gen_ai.request.frequency_penalty gen_ai.request.max_tokens gen_ai.request.presence_penalty
    gen_ai.request.stop_sequences gen_ai.request.temperature gen_ai.request.top_p gen_ai.request.encoding_formats
    gen_ai.response.finish_reasons gen_ai.response.id gen_ai.response.model gen_ai.usage.input_tokens
    gen_ai.usage.output_tokens gen_ai.token.type gen_ai.client.operation.duration gen_ai.client.token.usage
    """
)


def test_a_constant_is_used_where_the_oldest_version_has_one() -> None:
    assert {name for _, name in used()} == OLDEST


def test_names_still_stand_when_the_constants_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their package marks them as moved: a version without them must not break a program."""
    import importlib.util
    import sys

    for module in (gen_ai_attributes, gen_ai_metrics):
        package, _, name = module.__name__.rpartition(".")
        monkeypatch.setitem(sys.modules, module.__name__, None)
        monkeypatch.delattr(sys.modules[package], name)
    spec = importlib.util.spec_from_file_location("without_constants", conventions.__file__)
    assert spec is not None
    assert spec.loader is not None
    bare = importlib.util.module_from_spec(spec)
    with pytest.raises(ImportError):
        importlib.import_module(gen_ai_attributes.__name__)
    spec.loader.exec_module(bare)
    assert bare._attributes is bare._metrics is None
    assert {n: v for n, v in vars(bare).items() if n.isupper()} == {
        n: v for n, v in vars(conventions).items() if n.isupper()
    }


def test_emit_names_are_these_and_ours() -> None:
    assert ours().items() <= vars(names).items()
