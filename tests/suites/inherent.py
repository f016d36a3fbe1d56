"""Tests of the clients' suites that cannot pass while a call is traced, whoever traces it; each with the reason."""

INHERENT: dict[str, dict[str, str]] = {
    "anthropic": {
        "tests/test_open_telemetry.py::TestTracingFailures::test_disabled_spans_call_nothing_of_opentelemetry": (
            "it makes OpenTelemetry's functions raise and asserts that nobody calls them: the client does not, "
            "llmtrace does (and lets the call go on)"
        ),
        "tests/test_open_telemetry.py::TestPropagationOption::"
        "test_false_keeps_a_span_that_the_sampler_dropped_current_for_the_requests": (
            "its last line asserts that no span at all is current while a request is sent; the call's own span is, "
            "so that spans of an instrumented HTTP client lie under it"
        ),
    },
}
"""By client, then by the test's name without its parameters."""
