"""Spans that are told to OpenTelemetry's own SDK, in memory."""

import pytest

from wwwmarket.gateway.request import traceparent_of
from wwwmarket.node import spans
from wwwmarket.ports.tracing import NO_TRACES

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_the_client_s_span_is_taken_as_it_is_or_not_at_all():
    """What is not of W3C's form begins a trace of its own: it reaches neither a collector nor a provider."""
    assert traceparent_of({"traceparent": PARENT}) == PARENT
    for wrong in ("", PARENT.upper(), PARENT + "\n", PARENT[:-1], "01" + PARENT[2:], "x" * 4096):
        assert traceparent_of({"traceparent": wrong}) is None
    assert traceparent_of({}) is None


def test_an_untraced_request_costs_nothing_and_hands_nothing_on():
    """No tracer, no parent: the sealed order names none."""
    span = NO_TRACES.begin("chat m", "server", PARENT, {})
    span.tell({"a": 1})
    span.mark("x")
    span.end("malformed")
    assert span.traceparent is None


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/chat/completions", "chat m"),
        ("/v1/completions", "text_completion m"),
        ("/v1/embeddings", "embeddings m"),
        ("/v1/else", "unknown m"),
    ],
)
def test_spans_are_named_by_the_genai_conventions(path, name):
    """Operation and model; the bound on tokens only where there is one."""
    assert spans.name_of(path, "m") == name
    assert "gen_ai.request.max_tokens" not in spans.asked(path, "m", None)
    assert spans.asked(path, "m", 7)["gen_ai.request.max_tokens"] == 7
