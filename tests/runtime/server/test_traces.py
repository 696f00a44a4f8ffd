"""Requests as spans: in memory by the SDK, over OTLP to a collector of the test's, below the caller's own span."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from adapthub.hub.registry import Registry
from adapthub.runtime.server import app as server_app
from adapthub.runtime.server.lifecycle import Running
from adapthub.runtime.server.traces import Traces, open_traces
from tests.runtime.server.live import live, settings_for

SECRET = "alice visited london with bob"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture(autouse=True)
def no_traces_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture(scope="module")
def traced(served_base: Path, served_hub: Registry, exporter: InMemorySpanExporter) -> Iterator[Running]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server_app, "open_traces", lambda base: Traces(provider, base))
        with live(settings_for(served_base), served_hub) as running:
            patch.undo()  # the application is made
            yield running


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> InMemorySpanExporter:
    exporter.clear()
    return exporter


def client_of(running: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.address}/v1", api_key="none", max_retries=0)


def test_a_span_says_what_a_request_was_and_nothing_of_its_text(
    traced: Running, spans: InMemorySpanExporter
) -> None:
    with client_of(traced) as client:
        answer = client.chat.completions.create(
            model="acme/sql@prod", messages=[{"role": "user", "content": SECRET}], max_tokens=6
        )
    [span] = spans.get_finished_spans()
    assert (span.name, span.kind, span.parent) == ("chat acme/sql@v1", SpanKind.SERVER, None)
    attributes = dict(span.attributes or {})
    assert answer.usage is not None
    assert attributes == attributes | {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "adapthub",
        "gen_ai.request.model": "acme/sql@prod",
        "gen_ai.response.model": "acme/sql@v1",
        "gen_ai.response.finish_reasons": (answer.choices[0].finish_reason,),
        "gen_ai.usage.input_tokens": answer.usage.prompt_tokens,
        "gen_ai.usage.output_tokens": answer.usage.completion_tokens,
        "adapthub.tenant": "",
    }
    assert str(attributes["gen_ai.response.id"]) in answer.id
    assert [event.name for event in span.events] == ["started", "first token"]
    times = [span.start_time, *(event.timestamp for event in span.events), span.end_time]
    assert times == sorted(times, key=lambda when: when or 0)
    assert span.status.status_code is StatusCode.UNSET
    written = json.dumps(json.loads(span.to_json()))
    assert not [
        word for word in [*SECRET.split(), answer.choices[0].message.content] if f" {word} " in written
    ]
    assert SECRET not in written


def test_a_span_lies_below_the_callers(traced: Running, spans: InMemorySpanExporter) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    with client_of(traced) as client:
        for stream in (False, True):
            answer = client.completions.create(
                model="acme/tone", prompt="a b", max_tokens=3, stream=stream, extra_headers=headers
            )
            if stream:
                assert len(list(answer)) > 0
        client.completions.create(model="acme/tone", prompt="a b", max_tokens=3)
    *below, own = spans.get_finished_spans()
    assert [_trace(span) for span in below] == [TRACE, TRACE]
    assert [f"{span.parent.span_id:016x}" for span in below if span.parent] == [PARENT, PARENT]
    assert own.parent is None
    assert _trace(own) != TRACE


@pytest.mark.parametrize("header", ["garbage", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{PARENT}"])
def test_a_traceparent_that_is_none_is_left_aside(
    traced: Running, spans: InMemorySpanExporter, header: str
) -> None:
    with client_of(traced) as client:
        client.completions.create(
            model="acme/tone", prompt="a b", max_tokens=1, extra_headers={"traceparent": header}
        )
    [span] = spans.get_finished_spans()
    assert span.parent is None


def _trace(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


def test_without_variables_nothing_is_traced() -> None:
    assert open_traces("base") is None


@pytest.mark.parametrize(("name", "value"), [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")])
def test_what_is_switched_off_stays_off(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv(name, value)
    assert open_traces("base") is None


def test_an_exporter_that_is_not_known_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    assert open_traces("base") is None
    assert "zipkin" in caplog.text


@contextmanager
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """An OTLP endpoint on loopback, and what it was sent."""
    sent: list[ExportTraceServiceRequest] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                import gzip

                body = gzip.decompress(body)
            sent.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as endpoint:
        thread = threading.Thread(target=endpoint.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{endpoint.server_port}", sent
        finally:
            endpoint.shutdown()
            thread.join()


def test_spans_reach_a_collector_before_the_server_ends(
    served_base: Path, served_hub: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collector() as (address, sent):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "ours")
        with live(settings_for(served_base), served_hub) as running, client_of(running) as client:
            client.completions.create(model="acme/tone", prompt="a b", max_tokens=2)
        [resource] = [resource for request in sent for resource in request.resource_spans]
    names = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
    assert names["service.name"] == "ours"
    assert [span.name for scope in resource.scope_spans for span in scope.spans] == [
        "text_completion acme/tone@v1"
    ]
