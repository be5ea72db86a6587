"""Whether this node is up, and its totals for Prometheus (text format 0.0.4)."""

from collections.abc import Iterator
from math import inf

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.responses import PlainTextResponse, Response

from wwwmarket.domain.errors import Unavailable
from wwwmarket.gateway.problems import response_of
from wwwmarket.gateway.response import json_response
from wwwmarket.gateway.schemas import Schemas
from wwwmarket.node.service import Service


class ServiceCollector(Collector):
    """Reads the service's counters at each scrape; keeps none of its own."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        totals = self._service.counters()
        for name, value in sorted(totals.counters.items()):
            yield CounterMetricFamily(f"wwwmarket_{name}", _words(name), value)
        for name, value in sorted(totals.gauges.items()):
            yield GaugeMetricFamily(f"wwwmarket_{name}", _words(name), value)
        for name, buckets in sorted(totals.histograms.items()):
            yield HistogramMetricFamily(f"wwwmarket_{name}", _words(name), _closed(buckets), sum_value=None)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _closed(buckets: tuple[tuple[float, int], ...]) -> list[tuple[str, float]]:
    """Cumulative buckets by upper bound, up to the ``+Inf`` that the format asks for."""
    finite = [(str(bound), float(count)) for bound, count in buckets if bound != inf]
    return [*finite, ("+Inf", float(buckets[-1][1]) if buckets else 0.0)]


def router(service: Service, schemas: Schemas) -> APIRouter:
    doors = APIRouter(tags=["Health"])
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ServiceCollector(service))

    @doors.head("/health", include_in_schema=False)
    @doors.get(
        "/health", responses=schemas.answers(dict[str, str], "Up, and taking requests", example={"status": "ok"})
    )
    async def health() -> Response:
        if service.status().draining:
            return response_of(Unavailable("this node is leaving", retry_after_ms=5_000, reason="draining"))
        return json_response({"status": "ok"})

    @doors.head("/metrics", include_in_schema=False)
    @doors.get(
        "/metrics",
        response_class=PlainTextResponse,
        responses=schemas.answers_as("text/plain", {"type": "string"}, "Prometheus text"),
    )
    async def metrics() -> Response:
        return Response(generate_latest(registry), headers={"content-type": CONTENT_TYPE_LATEST})

    return doors
