"""The names of the OpenTelemetry GenAI conventions, each written once: v0.1.0, and the metrics of v1.41 before it.

Source: open-telemetry/semantic-conventions-genai v0.1.0, ``docs/gen-ai/client-inference.md``, ``client-embeddings.md``,
``gen-ai-token-metrics.md`` and ``non-normative/migration.md``. A test compares this module with a list from there.

``opentelemetry-semantic-conventions`` has constants for the names that are older than v0.1.0, in modules that it calls
incubating and has marked as moved elsewhere. Its constant is used where its oldest supported version (0.51b0) has one.
Should a later version drop the constant or the module, the name written beside it stands, and nothing breaks.
"""

from __future__ import annotations

from typing import Any, Final

from opentelemetry.semconv.attributes import error_attributes, http_attributes, server_attributes

_attributes: Any = None
_metrics: Any = None
try:
    from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as _attributes
    from opentelemetry.semconv._incubating.metrics import gen_ai_metrics as _metrics
except ImportError:
    pass


def _attribute(constant: str, name: str) -> str:
    return getattr(_attributes, constant, name)


def _metric(constant: str, name: str) -> str:
    return getattr(_metrics, constant, name)


# --- attributes of any operation ------------------------------------------------------------------------------
OPERATION: Final = _attribute("GEN_AI_OPERATION_NAME", "gen_ai.operation.name")
PROVIDER: Final = "gen_ai.provider.name"
SERVER_ADDRESS: Final = server_attributes.SERVER_ADDRESS
SERVER_PORT: Final = server_attributes.SERVER_PORT
ERROR_TYPE: Final = error_attributes.ERROR_TYPE
STATUS_CODE: Final = http_attributes.HTTP_RESPONSE_STATUS_CODE
RESEND_COUNT: Final = http_attributes.HTTP_REQUEST_RESEND_COUNT

# --- what a request says --------------------------------------------------------------------------------------
REQUEST_MODEL: Final = _attribute("GEN_AI_REQUEST_MODEL", "gen_ai.request.model")
REQUEST_STREAM: Final = "gen_ai.request.stream"
TEMPERATURE: Final = _attribute("GEN_AI_REQUEST_TEMPERATURE", "gen_ai.request.temperature")
TOP_P: Final = _attribute("GEN_AI_REQUEST_TOP_P", "gen_ai.request.top_p")
TOP_K: Final = _attribute("GEN_AI_REQUEST_TOP_K", "gen_ai.request.top_k")
FREQUENCY_PENALTY: Final = _attribute("GEN_AI_REQUEST_FREQUENCY_PENALTY", "gen_ai.request.frequency_penalty")
PRESENCE_PENALTY: Final = _attribute("GEN_AI_REQUEST_PRESENCE_PENALTY", "gen_ai.request.presence_penalty")
MAX_TOKENS: Final = _attribute("GEN_AI_REQUEST_MAX_TOKENS", "gen_ai.request.max_tokens")
SEED: Final = _attribute("GEN_AI_REQUEST_SEED", "gen_ai.request.seed")
STOP_SEQUENCES: Final = _attribute("GEN_AI_REQUEST_STOP_SEQUENCES", "gen_ai.request.stop_sequences")
CHOICE_COUNT: Final = "gen_ai.request.choice.count"
REASONING_LEVEL: Final = "gen_ai.request.reasoning.level"
PREVIOUS_RESPONSE: Final = "gen_ai.request.previous_response.id"
CONVERSATION: Final = "gen_ai.conversation.id"
OUTPUT_TYPE: Final = "gen_ai.output.type"
ENCODING_FORMATS: Final = _attribute("GEN_AI_REQUEST_ENCODING_FORMATS", "gen_ai.request.encoding_formats")
DIMENSIONS: Final = "gen_ai.embeddings.dimension.count"
AGENT_ID: Final = "gen_ai.agent.id"
AGENT_NAME: Final = "gen_ai.agent.name"
WORKFLOW_NAME: Final = "gen_ai.workflow.name"
TOOL_NAME: Final = "gen_ai.tool.name"

# --- what an answer says --------------------------------------------------------------------------------------
RESPONSE_ID: Final = _attribute("GEN_AI_RESPONSE_ID", "gen_ai.response.id")
RESPONSE_MODEL: Final = _attribute("GEN_AI_RESPONSE_MODEL", "gen_ai.response.model")
FINISH_REASONS: Final = _attribute("GEN_AI_RESPONSE_FINISH_REASONS", "gen_ai.response.finish_reasons")
TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS: Final = _attribute("GEN_AI_USAGE_INPUT_TOKENS", "gen_ai.usage.input_tokens")
OUTPUT_TOKENS: Final = _attribute("GEN_AI_USAGE_OUTPUT_TOKENS", "gen_ai.usage.output_tokens")
CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS: Final = "gen_ai.usage.cache_write.input_tokens"
REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
TEXT_INPUT_TOKENS: Final = "gen_ai.usage.text.input_tokens"
IMAGE_INPUT_TOKENS: Final = "gen_ai.usage.image.input_tokens"
AUDIO_INPUT_TOKENS: Final = "gen_ai.usage.audio.input_tokens"
TEXT_OUTPUT_TOKENS: Final = "gen_ai.usage.text.output_tokens"
IMAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.image.output_tokens"
AUDIO_OUTPUT_TOKENS: Final = "gen_ai.usage.audio.output_tokens"
TEXT_CACHE_READ_TOKENS: Final = "gen_ai.usage.text.cache_read.input_tokens"
IMAGE_CACHE_READ_TOKENS: Final = "gen_ai.usage.image.cache_read.input_tokens"
AUDIO_CACHE_READ_TOKENS: Final = "gen_ai.usage.audio.cache_read.input_tokens"
INPUT_BY_MODALITY: Final = {"text": TEXT_INPUT_TOKENS, "image": IMAGE_INPUT_TOKENS, "audio": AUDIO_INPUT_TOKENS}
OUTPUT_BY_MODALITY: Final = {"text": TEXT_OUTPUT_TOKENS, "image": IMAGE_OUTPUT_TOKENS, "audio": AUDIO_OUTPUT_TOKENS}
CACHE_READ_BY_MODALITY: Final = {
    "text": TEXT_CACHE_READ_TOKENS,
    "image": IMAGE_CACHE_READ_TOKENS,
    "audio": AUDIO_CACHE_READ_TOKENS,
}

# --- what others say of an answer -------------------------------------------------------------------------------
EVALUATION_EVENT: Final = "gen_ai.evaluation.result"
SCORE: Final = "gen_ai.evaluation.score.value"
SCORE_NAME: Final = "gen_ai.evaluation.name"

# --- content --------------------------------------------------------------------------------------------------
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
SYSTEM_INSTRUCTIONS: Final = "gen_ai.system_instructions"
TOOL_DEFINITIONS: Final = "gen_ai.tool.definitions"
DETAILS_EVENT: Final = "gen_ai.client.inference.operation.details"
EXCEPTION_EVENT: Final = "gen_ai.client.operation.exception"
EXCEPTION_TYPE: Final = "exception.type"

# --- metrics --------------------------------------------------------------------------------------------------
M_DURATION: Final = "gen_ai.client.inference.duration"
M_TIME_TO_FIRST_CHUNK: Final = "gen_ai.client.inference.time_to_first_chunk"
M_TIME_PER_CHUNK: Final = "gen_ai.client.inference.time_per_output_chunk"
M_INPUT_USAGE: Final = "gen_ai.client.inference.usage.input_tokens"
M_OUTPUT_USAGE: Final = "gen_ai.client.inference.usage.output_tokens"
M_CACHE_READ_USAGE: Final = "gen_ai.client.inference.usage.cache_read.input_tokens"
M_CACHE_WRITE_USAGE: Final = "gen_ai.client.inference.usage.cache_write.input_tokens"
M_REASONING_USAGE: Final = "gen_ai.client.inference.usage.reasoning.output_tokens"
M_INPUT_TOKENS: Final = "gen_ai.client.inference.operation.input_tokens"
M_OUTPUT_TOKENS: Final = "gen_ai.client.inference.operation.output_tokens"
M_EMBEDDINGS_DURATION: Final = "gen_ai.client.embeddings.duration"
M_EMBEDDINGS_INPUT_TOKENS: Final = "gen_ai.client.embeddings.operation.input_tokens"
M_OPERATION_DURATION: Final = _metric("GEN_AI_CLIENT_OPERATION_DURATION", "gen_ai.client.operation.duration")
"""In v0.1.0 of operations that are neither inference nor embeddings; in v1.41 of all."""
M_TOOL_DURATION: Final = "gen_ai.execute_tool.duration"
TOKEN_MODALITY: Final = "gen_ai.token.modality"
SERVICE_TIER: Final = "openai.response.service_tier"
SYSTEM_FINGERPRINT: Final = "openai.response.system_fingerprint"

SECONDS_BUCKETS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKEN_BUCKETS: Final = (
    1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864,
)  # fmt: skip

# --- metrics of v1.41, which the setting ``semconv`` keeps ------------------------------------------------------
M_OLD_TIME_TO_FIRST_CHUNK: Final = "gen_ai.client.operation.time_to_first_chunk"
M_OLD_TIME_PER_CHUNK: Final = "gen_ai.client.operation.time_per_output_chunk"
M_OLD_TOKENS: Final = _metric("GEN_AI_CLIENT_TOKEN_USAGE", "gen_ai.client.token.usage")
TOKEN_TYPE: Final = _attribute("GEN_AI_TOKEN_TYPE", "gen_ai.token.type")

# --- which operation is what ----------------------------------------------------------------------------------
INFERENCE: Final = frozenset({"chat", "generate_content", "text_completion"})
"""Operations that the conventions call inference."""
EMBEDDINGS: Final = "embeddings"
EXECUTE_TOOL: Final = "execute_tool"
V0_1_0: Final = "v0.1.0"
V1_41: Final = "v1.41"
SEMCONVS: Final = (V0_1_0, V1_41)
"""The values of the setting ``semconv``."""
