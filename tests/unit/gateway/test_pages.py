"""Health, metrics, pages, the OpenAPI document, and failures of our own."""

import httpx
import msgspec
import pytest
from fastapi.openapi.models import OpenAPI
from prometheus_client.parser import text_string_to_metric_families

from wwwmarket.domain.errors import Refusal
from wwwmarket.gateway.pages import _policy
from wwwmarket.gateway.problems import PROBLEMS, headers_of
from wwwmarket.node.service import Counters


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_health_says_whether_requests_are_taken(doors, market, method):
    """A leaving node is not healthy, and says when to ask again."""
    assert (await doors.request(method, "/health")).status_code == 200
    market.draining = True
    leaving = await doors.request(method, "/health")
    assert (leaving.status_code, leaving.headers["retry-after"]) == (503, "5")


async def test_metrics_are_prometheus_text(doors, market):
    """Counters, gauges and histograms are read back by Prometheus' own parser."""
    market.totals = Counters(
        counters={"requests": 3.0, "tokens_total": 7.0},
        gauges={"in_flight": 1.0},
        histograms={"ttft_seconds": ((0.1, 2), (0.5, 3)), "idle_seconds": ()},
    )
    answer = await doors.get("/metrics")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert families["wwwmarket_requests"].samples[0].value == 3
    assert families["wwwmarket_tokens"].samples[0].value == 7
    assert families["wwwmarket_in_flight"].samples[0].value == 1
    buckets = {one.labels["le"]: one.value for one in families["wwwmarket_ttft_seconds"].samples if "le" in one.labels}
    assert buckets == {"0.1": 2, "0.5": 3, "+Inf": 3}
    assert (await doors.head("/metrics")).status_code == 200


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_pages_are_self_contained(doors, path):
    """No asset comes from elsewhere, and the browser is told to hold the page to that."""
    page = await doors.get(path)
    assert page.headers["content-type"].startswith("text/html")
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert "innerHTML" not in page.text
    policy = page.headers["content-security-policy"]
    assert policy == _policy(page.text)
    assert "script-src 'sha256-" in policy
    assert "unsafe" not in policy
    assert (await doors.head(path)).status_code == 200


async def test_the_page_of_a_node_says_what_is_final(doors):
    """Beside each award and each offer, and of the ledger; where there is no committee, it says nothing of it."""
    page = (await doors.get("/")).text
    assert page.count("status.final_size") == 1
    assert 'one.finality === "none" ? "" : one.finality' in page
    assert page.count("finality(one)") == 2


async def test_the_openapi_document_is_valid_and_complete(doors):
    """It fits OpenAPI's own model, and every reference in it leads somewhere."""
    document = (await doors.get("/openapi.json")).json()
    OpenAPI.model_validate(document)
    components = document["components"]["schemas"]
    references = _references(document)
    assert {"Explanation", "BidForKey", "Error", "ModelList"} <= {name.split("/")[-1] for name in references}
    assert all(name.removeprefix("#/components/schemas/") in components for name in references)
    for path in ("/v1/chat/completions", "/v1/bids", "/v1/awards", "/v1/entries", "/v1/keys"):
        assert "example" in document["paths"][path]["post"]["requestBody"]["content"]["application/json"]


def _references(node):
    if isinstance(node, dict):
        own = {node["$ref"]} if "$ref" in node else set()
        return own.union(*map(_references, node.values()))
    return set().union(*map(_references, node)) if isinstance(node, list) else set()


@pytest.mark.parametrize(("stream", "status"), [(False, 500), (True, 500)])
async def test_a_bug_of_ours_is_a_500_without_its_details(app, market, chat, stream, status):
    """What went wrong is for the operator; the client learns only that it did."""
    market.script = [RuntimeError("secret detail")]
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
        answer = await client.post(
            "/v1/chat/completions", json=chat | {"stream": stream}, headers={"authorization": "Bearer sk-ada"}
        )
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, "server_error")
    assert "secret" not in answer.text
    assert "x-request-id" in answer.headers


async def test_a_bug_of_ours_within_a_stream_is_its_last_event(app, market, scripts, chat):
    """A stream that has begun still ends with an error in the one form."""
    market.script = [scripts.awarded, scripts.started, scripts.piece(scripts.chunk("a")), RuntimeError("secret detail")]
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
        answer = await client.post(
            "/v1/chat/completions", json=chat | {"stream": True}, headers={"authorization": "Bearer sk-ada"}
        )
    last = answer.content.strip().split(b"\n\n")[-1]
    assert msgspec.json.decode(last.removeprefix(b"data: "))["error"]["type"] == "server_error"
    assert b"secret" not in answer.content


async def test_request_ids_are_echoed_only_where_they_are_harmless(doors):
    """A name with odd characters is replaced by our own."""
    assert (await doors.get("/health", headers={"x-request-id": "a.b-1"})).headers["x-request-id"] == "a.b-1"
    assert len((await doors.get("/health", headers={"x-request-id": "a b"})).headers["x-request-id"]) == 32


async def test_a_correlation_id_comes_back_on_every_answer(doors):
    """What a client follows its requests by is on refusals, too; an odd one is left out."""
    for path in ("/v1/models", "/nothing"):
        assert (await doors.get(path, headers={"x-correlation-id": "trace:1"})).headers["x-correlation-id"] == "trace:1"
    assert "x-correlation-id" not in (await doors.get("/health", headers={"x-correlation-id": "a b"})).headers


def test_every_refusal_has_its_row():
    """No refusal of the domain is without its own HTTP code."""

    def kinds(kind):
        return {kind}.union(*map(kinds, kind.__subclasses__()))

    spoken = (
        "wwwmarket.domain.",
        "wwwmarket.ports.",
    )  # what an adapter makes of them for itself is not told to a gateway
    shipped = {kind for kind in kinds(Refusal) if kind.__module__.startswith(spoken)}
    assert shipped == set(PROBLEMS)
    assert headers_of(Refusal("x")) == {}
