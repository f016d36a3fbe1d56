"""What the OpenTelemetry Collector documents of the components that the example uses, as JSON Schema.

After each component's ``config.schema.yaml`` or README in opentelemetry-collector and its contrib repository.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
PERCENT: Schema = {
    "anyOf": [
        {"type": "number", "minimum": 0, "maximum": 100},
        {"type": "string", "pattern": r"^\$\{env:\w+(:-[\d.]+)?\}$"},
    ]
}
TIME: Schema = {"type": "string", "pattern": r"^(\d+(\.\d+)?(ns|us|ms|s|m|h))+$"}
ENDPOINT: Schema = {"type": "string", "pattern": r"^(https?://)?[\w.-]+:\d+$"}


def only(required: str = "", /, **keys: Schema) -> Schema:
    """A mapping of these keys and no others."""
    return {"type": "object", "properties": keys, "required": required.split(), "additionalProperties": False}


def many(of: Schema) -> Schema:
    """A list that is not empty."""
    return {"type": "array", "items": of, "minItems": 1}


def named(*types: str, of: Schema) -> Schema:
    """Components of these types, each ``type`` or ``type/name``."""
    pattern = f"^({'|'.join(types)})(/[^/]+)?$"
    return {"type": "object", "patternProperties": {pattern: of}, "additionalProperties": False}


def sections(**parts: Schema) -> Schema:
    """Several types of component in one section."""
    merged: Schema = {"type": "object", "patternProperties": {}, "additionalProperties": False}
    for kind, schema in parts.items():
        merged["patternProperties"][f"^{kind}(/[^/]+)?$"] = schema
    return merged


POLICIES: dict[str, Schema] = {
    "always_sample": only(),
    "status_code": only("status_codes", status_codes=many({"enum": ["OK", "ERROR", "UNSET"]})),
    "ottl_condition": only(
        error_mode={"enum": ["ignore", "propagate", "silent"]}, span=many(TEXT), spanevent=many(TEXT)
    ),
    "string_attribute": only(
        "key values",
        key=TEXT,
        values=many(TEXT),
        enabled_regex_matching=FLAG,
        cache_max_size=COUNT,
        invert_match=FLAG,
    ),
    "latency": only("threshold_ms", threshold_ms=COUNT, upper_threshold_ms=COUNT),
    "probabilistic": only("sampling_percentage", sampling_percentage=PERCENT, hash_salt=TEXT),
}
POLICY: Schema = {
    "oneOf": [
        only(f"name type {kind}", name=TEXT, type={"const": kind}, **{kind: settings})
        for kind, settings in POLICIES.items()
    ]
}
DIMENSION = only("name", name=TEXT, default=TEXT)

COLLECTOR = only(
    "receivers exporters service",
    receivers=sections(
        otlp=only("protocols", protocols=only(grpc=only(endpoint=ENDPOINT), http=only(endpoint=ENDPOINT)))
    ),
    processors=sections(
        memory_limiter=only("check_interval", check_interval=TIME, limit_mib=COUNT, spike_limit_mib=COUNT),
        filter=only(
            error_mode={"enum": ["ignore", "propagate", "silent"]}, traces=only(span=many(TEXT), spanevent=many(TEXT))
        ),
        tail_sampling=only(
            "policies",
            decision_wait=TIME,
            num_traces=COUNT,
            expected_new_traces_per_sec=COUNT,
            decision_cache=only(sampled_cache_size=COUNT, non_sampled_cache_size=COUNT),
            sample_on_first_match=FLAG,
            policies=many(POLICY),
        ),
        batch=only(timeout=TIME, send_batch_size=COUNT, send_batch_max_size=COUNT),
    ),
    connectors=sections(
        spanmetrics=only(
            namespace=TEXT,
            histogram=only(unit={"enum": ["ms", "s"]}, disable=FLAG, explicit=only(buckets=many(TIME))),
            dimensions=many(DIMENSION),
            exclude_dimensions=many(TEXT),
            exemplars=only(enabled=FLAG, max_per_data_point=COUNT),
            resource_metrics_key_attributes=many(TEXT),
            aggregation_cardinality_limit=COUNT,
            metrics_flush_interval=TIME,
            metrics_expiration=TIME,
            series_expiration=TIME,
        )
    ),
    exporters=sections(
        otlp=only("endpoint", endpoint=ENDPOINT, tls=only(insecure=FLAG)),
        prometheus=only("endpoint", endpoint=ENDPOINT, enable_open_metrics=FLAG, metric_expiration=TIME),
    ),
    service=only(
        "pipelines",
        pipelines=named(
            "traces",
            "metrics",
            "logs",
            of=only("receivers exporters", receivers=many(TEXT), processors=many(TEXT), exporters=many(TEXT)),
        ),
    ),
)
