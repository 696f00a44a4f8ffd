"""Requests as OpenTelemetry spans, where the standard OTEL_ variables ask for traces and the extra `telemetry` is installed.

A span a request, with the attributes of the conventions for generative AI, below the caller's own span where it sent a W3C
traceparent. Holds no text of prompts or answers. Does not instrument anything but finished requests.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from adapthub.runtime.server.observation import Observation

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_LOG = logging.getLogger(__name__)
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_OPERATIONS = {"completion": "text_completion", "embedding": "embeddings"}  # as the conventions call them
_CARRIED = (b"traceparent", b"tracestate")


def open_traces(base: str) -> Traces | None:
    """What the environment asks for: an OTLP endpoint, or a console. None for nothing, and where the SDK is missing."""
    environment = os.environ
    exporter = environment.get(
        "OTEL_TRACES_EXPORTER", "otlp" if any(map(environment.get, _ENDPOINTS)) else "none"
    )
    if exporter == "none" or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.sdk") is None:
        _LOG.warning("OTEL_ variables ask for traces; install adapthub[telemetry] to send them")
        return None
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

    found: SpanExporter
    if exporter == "console":
        found = ConsoleSpanExporter()
    elif exporter == "otlp":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        found = OTLPSpanExporter()
    else:
        _LOG.warning("OTEL_TRACES_EXPORTER is %s: only otlp, console and none are known", exporter)
        return None
    name = environment.get("OTEL_SERVICE_NAME", "adapthub")
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(found))
    return Traces(provider, base)


class Traces:
    """Spans of one server's requests, to `provider`; `base` is the model of requests without an adapter."""

    def __init__(self, provider: TracerProvider, base: str) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("adapthub")
        self._base = base

    def observe(self, seen: Observation) -> None:
        """A request ended. Called in the context of the request, which the caller's span is in."""
        from opentelemetry.trace import SpanKind, StatusCode

        span = self._tracer.start_span(
            f"{_OPERATIONS.get(seen.kind, seen.kind)} {seen.target.label or self._base}",
            kind=SpanKind.SERVER,
            start_time=_nanoseconds(seen.queued),
            attributes=self._attributes(seen),
        )
        for name, when in (("started", seen.started), ("first token", seen.first)):
            if when is not None:
                span.add_event(name, timestamp=_nanoseconds(when))
        if seen.outcome == "error":
            span.set_status(StatusCode.ERROR)
        span.end(_nanoseconds(seen.last))

    def close(self) -> None:
        """Send what is left. Blocks for as long as that takes."""
        self._provider.shutdown()

    def _attributes(self, seen: Observation) -> Mapping[str, str | int | float | list[str]]:
        attributes: dict[str, str | int | float | list[str]] = {
            "gen_ai.operation.name": _OPERATIONS.get(seen.kind, seen.kind),
            "gen_ai.provider.name": "adapthub",
            "gen_ai.request.model": seen.target.model,
            "gen_ai.response.model": seen.target.label or self._base,
            "gen_ai.response.id": seen.id,
            "gen_ai.response.finish_reasons": [seen.outcome],
            "gen_ai.usage.input_tokens": seen.usage.prompt_tokens,
            "gen_ai.usage.output_tokens": seen.usage.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": seen.usage.cached_tokens,
            "adapthub.tenant": seen.tenant,
        }
        if seen.ttft is not None:
            attributes["gen_ai.response.time_to_first_chunk"] = seen.ttft
        if seen.error is not None:
            attributes["error.type"] = type(seen.error).__name__
        return attributes


class TraceContext:
    """Middleware: what runs for a request runs below the span that its traceparent names."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        from opentelemetry.context import attach, detach
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        headers = scope.get("headers", ())
        carried = {name.decode(): value.decode("latin-1") for name, value in headers if name in _CARRIED}
        token = attach(TraceContextTextMapPropagator().extract(carried))
        try:
            await self._app(scope, receive, send)
        finally:
            detach(token)


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
