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
        "tests/test_open_telemetry.py::TestCallSpans::"
        "test_spans_that_start_during_the_call_are_children_of_the_call_span": (
            "a span that begins while the request is sent is asserted to be a child of the client's span: here the "
            "client's spans go to another TracerProvider than llmtrace's, whose span lies between the two"
        ),
    },
}
"""By client, then by the test's name without its parameters."""
