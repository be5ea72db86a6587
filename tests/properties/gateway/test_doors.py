"""Whatever strangers post, the answer is theirs to mend and in the one form."""

import asyncio
import json

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

DOORS = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/bids",
    "/v1/awards",
    "/v1/entries",
    "/v1/keys",
    "/v1/keys/ada/top-up",
]
FIELDS = [
    "model", "messages", "prompt", "stream", "stream_options", "max_tokens", "n", "best_of", "provider", "tools", "role",
    "content", "type", "text", "signed_bid", "path", "request", "entry", "salt", "name", "budget_micro", "amount_micro",
    "max_price", "only", "sort", "slo", "include_usage", "max_completion_tokens",
]  # fmt: skip

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=True),
    st.text(max_size=20),
    st.sampled_from(["tiny", "/v1/completions", "NaN", "1e999999", "latency", "00" * 32, "\ud800"]),
)
documents = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), inner, max_size=6)
    ),
    max_leaves=30,
)
bounded = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def post(app, path, body, headers=None):
    """One request through the whole application; an unhandled exception of ours fails the test."""
    secret = "admin-token" if path.startswith("/v1/keys") else "sk-ada"

    async def send():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
            return await client.post(
                path, content=body, headers={"authorization": f"Bearer {secret}"} | (headers or {})
            )

    return asyncio.run(send())


def check(answer):
    """Success, or a 4xx in OpenAI's form."""
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
    return answer.status_code


@pytest.mark.parametrize("path", DOORS)
@bounded
@given(body=st.binary(max_size=300))
def test_arbitrary_bytes_are_a_refusal(app, path, body):
    """No bytes that are no request make this node fail, or succeed."""
    assert check(post(app, path, body)) >= 400


@pytest.mark.parametrize("path", DOORS)
@bounded
@given(document=documents)
def test_arbitrary_json_is_never_a_failure_of_ours(app, path, document):
    """Any JSON, deep or odd, is answered or refused."""
    check(post(app, path, json.dumps(document).encode()))


@pytest.mark.parametrize("path", DOORS[:2])
@bounded
@given(extra=st.dictionaries(st.sampled_from(FIELDS), documents, max_size=4))
def test_a_good_request_with_arbitrary_fields_is_never_a_failure_of_ours(app, path, extra):
    """The depths of an almost right request are as safe as its surface."""
    good = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "prompt": "x"}
    check(post(app, path, json.dumps(good | extra).encode()))


@bounded
@given(content=documents, routing=documents)
def test_arbitrary_content_and_routing_are_never_a_failure_of_ours(app, content, routing):
    """Message content and the provider object are read in depth, and refused in depth."""
    request = {"model": "tiny", "messages": [{"role": "user", "content": content}], "provider": routing}
    check(post(app, "/v1/chat/completions", json.dumps(request).encode()))
    request["provider"] = {"max_price": routing}
    check(post(app, "/v1/chat/completions", json.dumps(request).encode()))


@bounded
@given(value=st.text(alphabet=st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=20).map(str.strip))
@pytest.mark.parametrize(
    "name", ["x-slo-ttft-ms", "x-wwwmarket-max-price", "x-wwwmarket-time-value", "authorization", "x-request-id"]
)
def test_arbitrary_headers_are_never_a_failure_of_ours(app, name, value):
    """Headers are strangers' bytes too."""
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "x"}]}).encode()
    check(post(app, "/v1/chat/completions", body, {name: value.encode("latin-1")}))


@pytest.mark.parametrize("path", DOORS)
def test_deep_nesting_is_a_refusal(app, path):
    """A tower of brackets is refused rather than climbed."""
    assert check(post(app, path, b"[" * 100_000)) >= 400
    tower = b'{"model":"tiny","messages":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    assert check(post(app, path, tower)) >= 400


@bounded
@given(path=st.text(alphabet=st.characters(codec="utf-8", exclude_characters="?#"), max_size=30))
def test_unknown_paths_are_refused_in_the_one_form(app, path):
    """Any path is known or a refusal."""
    check(post(app, f"/x{path.replace('/', '')}".encode("unicode_escape").decode(), b""))
