"""What is sent to the receiver: every encoding, and everything that is broken, over sockets."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import socket
import zlib
from typing import Any

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpanExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.trace import Link, Status, StatusCode

from llmtrace.errors import LlmtraceError
from llmtrace.view.serve import bodies
from llmtrace.view.serve.bodies import BODY_BYTES, UNPACKED_BYTES
from llmtrace.view.serve.guard import origin_of
from tests.analyze.writing import MS, Writer
from tests.view.serve.conftest import ALLOWED
from tests.view.serve.running import Viewer, viewer

JSON = {"Content-Type": "application/json"}
PROTOBUF = {"Content-Type": "application/x-protobuf"}


_traces = iter(range(1, 1 << 20))


def a_call(trace: int, **marks: Any) -> Writer:
    writer = Writer(count=trace * 1000)
    writer.call(0.0, [("network", 1.0), ("decode", 2.0)], trace=trace, marks=marks)
    return writer


def arrived(taking: Viewer, trace: int, spans: int = 3) -> dict[str, Any]:
    """The trace, once so many of its spans are there."""
    for _ in taking.patiently():
        code, _, body = taking.ask(f"/api/traces/{trace:032x}")
        if code == 200 and (answer := json.loads(body))["total"] >= spans:
            return answer
    raise AssertionError(body)


@pytest.mark.parametrize("encoding", ["", "identity", "gzip", "deflate", "raw deflate"])
def test_every_encoding(taking: Viewer, encoding: str) -> None:
    trace = next(_traces)
    body = json.dumps(a_call(trace).document()).encode()
    if encoding == "gzip":
        half = len(body) // 2
        body = gzip.compress(body[:half], mtime=0) + gzip.compress(body[half:])  # two members are one file
    elif encoding == "deflate":
        body = zlib.compress(body)
    elif encoding == "raw deflate":
        machine = zlib.compressobj(wbits=-15)
        body = machine.compress(body) + machine.flush()
    headers = {**JSON, "Content-Encoding": encoding.removeprefix("raw ")} if encoding else JSON
    code, _, answer = taking.ask("/v1/traces", body, headers)
    assert (code, json.loads(answer)) == (200, {})
    assert arrived(taking, trace)["total"] == 3


@pytest.mark.parametrize("compression", list(Compression))
def test_the_sdks_own_exporter(taking: Viewer, compression: Compression) -> None:
    provider = TracerProvider(resource=Resource.create({"service.name": "exporting"}))
    provider.add_span_processor(
        SimpleSpanProcessor(OTLPSpanExporter(f"{taking.url}/v1/traces", timeout=180, compression=compression))
    )
    tracer = provider.get_tracer("scope")
    with tracer.start_as_current_span("linked") as linked:
        pass
    link = Link(linked.get_span_context(), {"why": "retried"})
    odd = {"text": "ä\u2028<script>", "list": [1, 2], "number": 0.5, "yes": True, "bytes": b"\x00\xff", "big": 2**62}
    with tracer.start_as_current_span("<b>parent</b>", attributes=odd, links=[link]) as span:
        span.add_event("seen", {"n": 1})
        span.set_status(Status(StatusCode.ERROR, "wrong"))
    provider.shutdown()
    (told,) = arrived(taking, span.get_span_context().trace_id, 1)["spans"]
    assert told["name"] == "<b>parent</b>"
    assert told["attributes"] == {**odd, "bytes": "AP8="}
    assert (told["status"], told["status_message"], told["kind"]) == ("error", "wrong", "internal")
    assert (told["scope"], told["resource"]["service.name"]) == ("scope", "exporting")
    ((event),) = told["events"]
    assert (event["name"], event["attributes"]) == ("seen", {"n": 1})
    assert 0 <= event["at_s"] < 60
    assert told["links"] == [
        {
            "trace_id": f"{linked.get_span_context().trace_id:032x}",
            "span_id": f"{linked.get_span_context().span_id:016x}",
            "attributes": {"why": "retried"},
        }
    ]


@pytest.mark.parametrize(
    ("body", "headers", "code", "words"),
    [
        (b"{", JSON, 400, "not valid JSON"),
        (b"[]", JSON, 400, "no OTLP object"),
        (b'{"resourceLogs": []}', JSON, 200, ""),
        (b'{"hello": 1}', JSON, 400, "not OTLP"),
        (b"{}", JSON, 200, ""),
        (b"\xff\xff", JSON, 400, "not valid JSON"),
        (b"x", {**JSON, "Content-Encoding": "zstd"}, 415, "use gzip"),
        (b"x", {**JSON, "Content-Encoding": "gzip"}, 400, "no gzip data"),
        (gzip.compress(b"{}" * 500, mtime=0)[:-9], {**JSON, "Content-Encoding": "gzip"}, 400, "cut short"),
        (b"x", {**JSON, "Content-Encoding": "deflate"}, 400, "no deflate data"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "application/x-protobuf or application/json"),
        (b" " * (BODY_BYTES + 1), JSON, 413, "16 MiB"),
    ],
)  # fmt: skip
def test_what_is_refused(taking: Viewer, body: bytes, headers: dict[str, str], code: int, words: str) -> None:
    got, answered, answer = taking.ask("/v1/traces", body, headers)
    assert got == code
    assert words in json.loads(answer).get("error", "")
    if code == 415 and "Content-Encoding" in headers:
        assert "gzip" in answered["accept-encoding"]


def test_half_a_character_costs_no_span(taking: Viewer) -> None:
    """JavaScript escapes half of a surrogate pair as it stands; strict readers take it for no JSON."""
    trace = next(_traces)
    document = a_call(trace, mine="cut \ud83d here, whole \U0001f600, spelt \\ud83d").document()
    body = json.dumps(document).encode()
    assert b"cut \\ud83d here" in body
    assert taking.ask("/v1/traces", body, JSON)[0] == 200
    call = next(span for span in arrived(taking, trace)["spans"] if "mine" in span["attributes"])
    assert call["attributes"]["mine"] == "cut \ufffd here, whole \U0001f600, spelt \\ud83d"


def test_a_bomb_is_refused_and_not_unpacked(taking: Viewer) -> None:
    bomb = zlib.compressobj(9, wbits=31)
    packed = b"".join(bomb.compress(b" " * (1 << 20)) for _ in range((UNPACKED_BYTES >> 20) + 2)) + bomb.flush()
    assert len(packed) < 100_000
    code, _, answer = taking.ask("/v1/traces", packed, {**JSON, "Content-Encoding": "gzip"})
    assert code == 413
    assert "64 MiB once unpacked" in json.loads(answer)["error"]


def test_errors_in_protobuf_are_told_in_protobuf(taking: Viewer) -> None:
    from google.rpc.status_pb2 import Status as Told

    code, headers, answer = taking.ask("/v1/traces", b"\xff\xff\xff", PROTOBUF)
    assert (code, headers["content-type"]) == (400, "application/x-protobuf")
    assert "no OTLP protobuf" in Told.FromString(answer).message
    code, _, answer = taking.ask("/v1/traces", b"", PROTOBUF)
    assert (code, ExportTraceServiceResponse.FromString(answer).ByteSize()) == (200, 0)


def test_a_broken_span_costs_itself_only(taking: Viewer) -> None:
    trace = next(_traces)
    document = a_call(trace).document()
    document["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["traceId"] = "xyz"
    answer = taking.send(document)
    assert answer["partialSuccess"]["rejectedSpans"] == "1"
    assert "traceId" in answer["partialSuccess"]["errorMessage"]
    told = arrived(taking, trace, 2)
    assert (told["total"], told["orphans"]) == (2, 2)
    assert all(span["orphan"] and span["depth"] == 0 for span in told["spans"])
    assert any("traceId" in reason for reason in taking.get("/api/status")["rejected"])


def test_a_retried_export_counts_once_and_late_spans_join(taking: Viewer) -> None:
    trace = next(_traces)
    documents = a_call(trace).documents()
    taking.send(documents[2])
    arrived(taking, trace, 1)
    taking.send(documents[2])  # again, once it is stored
    for document in (documents[0], documents[0], documents[1]):  # and again while it is on its way
        taking.send(document)
    told = arrived(taking, trace, 3)
    assert told["total"] == 3
    assert [(span["name"], span["depth"], span["descendants"]) for span in told["spans"]] == [
        ("chat gpt-4o-mini", 0, 2),
        ("llm.network", 1, 0),
        ("llm.decode", 1, 0),
    ]
    (call,) = taking.get("/api/calls", q=f"{trace:032x}")["calls"]
    assert [phase["name"] for phase in call["phases"]] == ["network", "decode"]


def test_clocks_that_disagree_are_told(taking: Viewer) -> None:
    trace = next(_traces)
    app = Writer("app", count=trace * 1000)
    parent = app.span("call", 0.0, 10.0, trace=trace)
    engine = Writer("engine", count=trace * 1000 + 500)
    engine.span("llm_request", -35.0, 5.0, trace=trace, parent=parent)
    taking.send(app.document())
    taking.send(engine.document())
    told = arrived(taking, trace, 2)
    assert told["services"] == ["app", "engine"]
    (warning,) = told["clock_warnings"]
    assert warning.startswith("1 span of engine begins before")
    assert "35.0 ms" in warning


def test_numbers_and_times_at_their_ends(taking: Viewer) -> None:
    trace = next(_traces)
    writer = a_call(trace, **{"gen_ai.usage.input_tokens": 2**70, "llmtrace.call.ttft": "soon"})
    span = writer.spans[0]
    span["endTimeUnixNano"] = str(int(span["startTimeUnixNano"]) - 5 * MS)  # it ends before it begins
    taking.send(writer.document())
    told = arrived(taking, trace)
    assert told["spans"][0]["duration_s"] == 0.0
    (call,) = taking.get("/api/calls", q=f"{trace:032x}")["calls"]
    assert (call["input_tokens"], call["ttft_s"], call["duration_s"]) == (None, None, None)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example:4319"}, 421),
        ({"Host": "evil.example@127.0.0.1"}, 421),
        ({"Host": "127.0.0.1/evil.example"}, 421),
        ({"Host": ""}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": "192.168.1.7"}, 421),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:1"}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
        ({"Host": "[::1]:7"}, 200),
    ],
)
def test_foreign_names_and_pages_are_refused(taking: Viewer, headers: dict[str, str], code: int) -> None:
    for path, body in (("/api/status", None), ("/", None), ("/v1/traces", b"{}")):
        got, answered, answer = taking.ask(path, body, {**JSON, **headers})
        assert got == code
        assert "frame-ancestors 'none'" in answered["content-security-policy"]
        assert "access-control-allow-origin" not in answered
        assert code == 200 or json.loads(answer)["error"]


PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}


def test_pages_of_an_allowed_origin_may_send_spans_and_read_nothing(taking: Viewer) -> None:
    code, answered, _ = taking.ask("/v1/traces", headers={"Origin": ALLOWED, **PREFLIGHT}, method="OPTIONS")
    assert (code, answered["access-control-allow-origin"], answered["vary"]) == (204, ALLOWED, "origin")
    assert answered["access-control-allow-methods"] == "POST"
    assert "content-type" in answered["access-control-allow-headers"].split(", ")
    trace = next(_traces)
    body = json.dumps(a_call(trace).document()).encode()
    code, answered, _ = taking.ask("/v1/traces", body, {"Origin": ALLOWED, **JSON})
    assert (code, answered["access-control-allow-origin"]) == (200, ALLOWED)
    arrived(taking, trace)
    for path in (f"/api/traces/{trace:032x}", "/api/calls", "/api/live", "/"):
        for method in ("GET", "OPTIONS"):
            code, answered, _ = taking.ask(path, headers={"Origin": ALLOWED, **PREFLIGHT}, method=method)
            assert (code, "access-control-allow-origin" in answered) == (403, False), path


@pytest.mark.parametrize(
    "origin", ["http://app.example", "https://app.example:8080", "http://app.example:80801", "null"]
)
def test_pages_of_any_other_origin_may_send_nothing(taking: Viewer, origin: str) -> None:
    for method, body in (("OPTIONS", None), ("POST", b"{}")):
        code, answered, _ = taking.ask("/v1/traces", body, {"Origin": origin, **PREFLIGHT, **JSON}, method)
        assert (code, "access-control-allow-origin" in answered) == (403, False)


def test_no_page_of_another_origin_may_send_unless_it_is_allowed(asked: Viewer) -> None:
    for method, body in (("OPTIONS", None), ("POST", b"{}")):
        code, answered, answer = asked.ask("/v1/traces", body, {"Origin": ALLOWED, **PREFLIGHT, **JSON}, method)
        assert (code, "access-control-allow-origin" in answered) == (403, False)
        assert b"--allow-origin" in answer


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("HTTP://LocalHost:8080/", ALLOWED.replace("app.example", "localhost")),
        ("https://app.example:443", "https://app.example"),
        ("http://[::1]:80", "http://[::1]"),
    ],
)
def test_an_origin_is_read_as_browsers_write_it(given: str, origin: str) -> None:
    assert origin_of(given) == origin


@pytest.mark.parametrize(
    "given",
    ["*", "localhost:8080", "http://", "http://a/b", "http://u@a", "http://a:b", "null", "http://*.a", "http://ä.de"],
)
def test_what_is_no_origin_is_refused(given: str) -> None:
    with pytest.raises(LlmtraceError, match="--allow-origin takes an origin"):
        origin_of(given)


def test_other_signals_are_taken_and_dropped_with_one_note(taking: Viewer) -> None:
    for path in ("/v1/metrics", "/v1/logs", "/v1/metrics"):
        code, answered, answer = taking.ask(path, b"", PROTOBUF)
        assert (code, answered["content-type"], answer) == (200, "application/x-protobuf", b"")
        assert taking.ask(path, b"{}", JSON)[::2] == (200, b"{}")
    assert taking.get("/api/status")["notes"] == ["metrics and logs are taken and dropped: this viewer shows traces"]


def test_the_same_port_takes_grpc(taking: Viewer) -> None:
    provider = TracerProvider(resource=Resource({"service.name": "over-grpc"}))
    provider.add_span_processor(SimpleSpanProcessor(GrpcSpanExporter(taking.url, insecure=True, timeout=180)))
    with provider.get_tracer("t").start_as_current_span("sent over grpc") as span:
        trace = span.get_span_context().trace_id
    provider.shutdown()
    assert arrived(taking, trace, spans=1)["spans"][0]["name"] == "sent over grpc"
    assert (
        GrpcMetricExporter(taking.url, insecure=True, timeout=180).export(MetricsData([])) is MetricExportResult.SUCCESS
    )


def test_a_large_batch_over_grpc_arrives_whole(taking: Viewer) -> None:
    sent: list[ReadableSpan] = []
    provider = TracerProvider()
    with provider.get_tracer("t").start_as_current_span("root") as root:
        trace = root.get_span_context().trace_id
        for _ in range(2000):
            span = provider.get_tracer("t").start_span("child", attributes={"text": "x" * 2000})
            span.end()
            assert isinstance(span, ReadableSpan)
            sent.append(span)
    exporter = GrpcSpanExporter(taking.url, insecure=True, timeout=180)
    assert exporter.export(sent) is SpanExportResult.SUCCESS
    exporter.shutdown()
    assert arrived(taking, trace, spans=2000)["total"] == 2000


def test_what_is_no_otlp_is_refused_over_grpc(taking: Viewer) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{taking.port}") as channel:
        export = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
        with pytest.raises(grpc.RpcError) as refused:
            export(b"\xff\xff", timeout=180)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]


def test_a_body_of_very_many_members_is_not_copied_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []

    class Counted:
        """zlib's machine, which copies what a member leaves of what it was given."""

        def __init__(self, window: int) -> None:
            self._machine = zlib.decompressobj(window)

        def decompress(self, piece: bytes, most: int) -> bytes:
            given.append(len(piece))
            return self._machine.decompress(piece, most)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._machine, name)

    monkeypatch.setattr(bodies, "decompressobj", Counted)
    members = 20_000
    assert bodies.unpack(gzip.compress(b"x", mtime=0) * members, "gzip") == b"x" * members
    assert len(given) == members
    assert max(given) <= 4096, "20,000 times the rest of 420 kB would be 4 GB"


HINDERED = """
import llmtrace.view.serve.over_grpc as over_grpc, llmtrace.view.serve.receive as receive
over_grpc.is_installed = lambda: False
receive._SENT_WITHIN_S = 0.3
"""


def test_without_grpcio_a_program_that_speaks_grpc_is_told_of_and_an_unsent_body_is_not_waited_for() -> None:
    with viewer("--memory", prelude=HINDERED, warm=False) as made:
        assert "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf" in "".join(made.said)
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", made.port)) as connection:
                connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
                assert connection.recv(1) == b"", "closed, and nothing of HTTP/1 answered"
        assert "grpcio" in made.get("/api/status")["notes"][0]
        with socket.create_connection(("127.0.0.1", made.port)) as half:
            half.sendall(b"POST /v1/traces HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n")
            half.sendall(b"Content-Length: 50\r\n\r\n{")
            half.settimeout(60)
            answer = half.makefile("rb").read()  # to its end: the connection is closed
        assert answer.startswith(b"HTTP/1.1 408")
        made.stop()
        assert made.errors.count("OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf") == 1


def test_otlps_own_ports_are_taken_where_they_are_free(taking: Viewer) -> None:
    before = {port: free(port) for port in (4317, 4318)}
    with viewer("--memory", "--default-ports", warm=False) as made:
        taken = [port for port in (4317, 4318) if before[port]]
        said = "".join(made.said)
        assert not taken or f"(port {' and '.join(map(str, taken))})" in said
        for port in taken:
            assert not free(port)
    assert "(port" not in "".join(taking.said), "not beside a port of one's own choice"


def free(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def test_the_live_tail(taking: Viewer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", taking.port, timeout=180)
    connection.request("GET", "/api/live")
    answer = connection.getresponse()
    assert answer.headers["content-type"].startswith("text/event-stream")

    def event() -> dict[str, Any]:
        assert answer.readline() == b"event: spans\n"
        told = json.loads(answer.readline().removeprefix(b"data: "))
        assert answer.readline() == b"\n"
        return told

    before = event()
    taking.send(a_call(next(_traces)).document())
    after = event()
    while after["spans"] < before["spans"] + 3:
        after = event()
    assert after["calls"] == before["calls"] + 1
    connection.close()


def test_who_answered_behind_a_gateway_that_names_no_provider(taking: Viewer) -> None:
    told = ("model=m;upstream=Groq;deployment=d1", "model=m;deployment=d1", "upstream_model=n", "model=m")
    writer = Writer(count=7_000_000)
    for number, fingerprint in enumerate(told):
        writer.call(
            number, [("decode", 5.0)], trace=0x6A7E0 + number, marks={"llmtrace.route.fingerprint": fingerprint}
        )
    taking.send(writer.document())
    shown: list[str | None] = []
    for number in range(len(told)):
        for _ in taking.patiently():
            if calls := taking.get("/api/calls", q=f"{0x6A7E0 + number:032x}")["calls"]:
                shown.append(calls[0]["upstream"])
                break
    assert shown == ["Groq", "d1", "n", None]
