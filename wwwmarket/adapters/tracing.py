"""Spans sent to an OpenTelemetry collector by OTLP over HTTP, configured by OpenTelemetry's own variables.

An extra (``otel``). Spans wait in a bounded queue and are sent by a thread: a collector that is slow or gone costs
spans, never a request.
"""

from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from wwwmarket.ports.tracing import Attributes, Kind, Span, TraceParent

_SERVICE: Final = "wwwmarket"
_FLUSH_MS: Final = 2_000
"""How long a leaving node waits for its last spans to be taken."""


class _OpenTelemetrySpan:
    def __init__(self, span: trace.Span) -> None:
        self._span = span

    @property
    def traceparent(self) -> TraceParent | None:
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier, trace.set_span_in_context(self._span))
        return carrier.get("traceparent")

    def tell(self, attributes: Attributes) -> None:
        self._span.set_attributes(dict(attributes))

    def mark(self, name: str) -> None:
        self._span.add_event(name)

    def end(self, error: str | None = None) -> None:
        if error is not None:
            self._span.set_attribute("error.type", error)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class OpenTelemetryTracer:
    """Implements ``ports.tracing.Tracer``."""

    def __init__(self, node: str) -> None:
        resource = Resource.create({"service.name": _SERVICE, "service.instance.id": node})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer(_SERVICE)
        self._kinds: Final[dict[Kind, trace.SpanKind]] = {
            "server": trace.SpanKind.SERVER,
            "client": trace.SpanKind.CLIENT,
            "internal": trace.SpanKind.INTERNAL,
        }

    def begin(self, name: str, kind: Kind, parent: TraceParent | None, attributes: Attributes) -> Span:
        return _OpenTelemetrySpan(
            self._tracer.start_span(name, _context(parent), self._kinds[kind], attributes=dict(attributes))
        )

    def close(self) -> None:
        """Send what waits, briefly. Blocks."""
        self._provider.force_flush(_FLUSH_MS)
        self._provider.shutdown()


def _context(parent: TraceParent | None) -> Context:
    return TraceContextTextMapPropagator().extract({} if parent is None else {"traceparent": parent})
