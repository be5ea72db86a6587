"""OpenAI's SDKs, streaming with tools, JSON schema and cancellation, against a real llama.cpp behind the market."""

import json
import shutil
import threading
import time
from contextlib import closing
from pathlib import Path

import openai
import pytest

from tests.foreign.clients.conftest import CALLER, CLIENTS, FAST, TINY, until

pytestmark = pytest.mark.slow

HELLO = [{"role": "user", "content": "Tell me about the river."}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "price",
            "parameters": {"type": "object", "properties": {"of": {"type": "string"}}, "required": ["of"]},
        },
    }
]
SCHEMA = {
    "type": "object",
    "properties": {"fair": {"type": "boolean"}},
    "required": ["fair"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": SCHEMA, "strict": True}}
NODE_MODULES = CLIENTS / "js" / "node_modules" / "openai"


@pytest.fixture
def client(market):
    with closing(openai.OpenAI(base_url=market.openai, api_key=market.key, max_retries=0)) as made:
        yield made


def cancelled(market, award: str) -> dict:
    """The settled receipt of a cancelled award."""

    def settled():
        got = market.http.get(f"/v1/receipts/{award}").json()
        return got if got.get("settlement_index") is not None else None

    receipt = until(settled, 30)
    assert receipt["attestation"]["body"]["outcome"] == "cancelled"
    assert receipt["attestation"]["body"]["usage"]["output_tokens"] < 3_000
    return receipt


def test_python_streams_tools(market, client):
    """Tools reach the engine, and its call comes back piece by piece; llama.cpp answers them in words or with a call."""
    name, arguments = "", ""
    for chunk in client.chat.completions.create(
        model=CALLER, messages=HELLO, tools=TOOLS, tool_choice="required", max_tokens=200, stream=True
    ):
        for call in (chunk.choices[0].delta.tool_calls or ()) if chunk.choices else ():
            name += call.function.name or ""
            arguments += call.function.arguments or ""
    assert (name, json.loads(arguments)) == ("price", {"of": "tea"})
    spoken = client.chat.completions.create(model=TINY, messages=HELLO, tools=TOOLS, max_tokens=16).choices[0]
    assert spoken.message.content or spoken.message.tool_calls


def test_python_gets_what_a_schema_binds(client):
    """The engine's grammar reaches through the market."""
    answer = client.chat.completions.create(model=TINY, messages=HELLO, response_format=FORM, max_tokens=64)
    text = answer.choices[0].message.content
    assert set(json.loads(text)) == {"fair"} if answer.choices[0].finish_reason == "stop" else "{" in text


def test_python_gets_choices_seeds_and_logprobs(client):
    """``n``, ``seed`` and ``logprobs`` are the engine's own."""
    asked = {"n": 2, "seed": 7, "temperature": 1.0, "logprobs": True, "top_logprobs": 2, "max_tokens": 8}
    answer = client.chat.completions.create(model=TINY, messages=HELLO, **asked)
    assert len(answer.choices) == 2
    assert answer.choices[0].logprobs.content[0].top_logprobs


def test_cancelling_reaches_the_engine_within_a_second(market, client):
    """The client closes its stream: a second later its award is attested as cancelled, with fewer tokens than asked."""
    stream = client.chat.completions.with_raw_response.create(
        model=TINY, messages=HELLO, max_tokens=3_000, stream=True, extra_body={"ignore_eos": True}
    )
    award = stream.headers["x-wwwmarket-award"]
    chunks = iter(stream.parse())
    next(chunks)
    chunks.close()
    stream.http_response.close()
    left = time.monotonic()
    until(lambda: market.http.get(f"/v1/receipts/{award}").status_code == 200, 5)
    print(f"\nattested {time.monotonic() - left:.2f} s after the client left")  # noqa: T201 - a measurement
    cancelled(market, award)


def test_names_of_requests_come_back(market):
    """X-Request-ID and X-Correlation-ID are the client's own; without one a request gets a name."""
    asked = {"model": TINY, "messages": HELLO, "max_tokens": 4}
    told = market.http.post(
        "/v1/chat/completions", json=asked, headers={"x-request-id": "r-1", "x-correlation-id": "c-1"}
    ).headers
    assert (told["x-request-id"], told["x-correlation-id"]) == ("r-1", "c-1")
    assert market.http.post("/v1/chat/completions", json=asked).headers["x-request-id"]


def test_connections_are_kept_alive(market):
    """Several requests, whole and streamed, over one connection."""
    asked = {"model": TINY, "messages": HELLO, "max_tokens": 4}
    with market.http.stream("POST", "/v1/chat/completions", json={**asked, "stream": True}) as answer:
        answer.read()
        first = answer.extensions["network_stream"].get_extra_info("client_addr")
    for _ in range(3):
        with market.http.stream("POST", "/v1/chat/completions", json=asked) as answer:
            answer.read()
            assert answer.extensions["network_stream"].get_extra_info("client_addr") == first


def test_thirty_two_streams_of_python_at_once(market):
    """Each ends with its usage, whatever the others do."""
    done = []

    def one() -> None:
        with closing(openai.OpenAI(base_url=market.openai, api_key=market.key, max_retries=0)) as client:
            stream = client.chat.completions.create(
                model=FAST,
                messages=HELLO,
                max_tokens=16,
                stream=True,
                stream_options={"include_usage": True},
            )
            done.append(list(stream)[-1].usage.completion_tokens)

    threads = [threading.Thread(target=one) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 32
    assert min(done) > 0


@pytest.mark.foreign("node", str(NODE_MODULES))
def test_the_javascript_sdk(market, run, tmp_path):
    """Whole and streamed, content parts, tools, a schema, cancellation, errors, models: as with any server."""
    (tmp_path / "node_modules").symlink_to(NODE_MODULES.parent)
    script = shutil.copy(Path(__file__).with_name("sdk.mjs"), tmp_path)
    told = json.loads(run("node", script, market.openai, market.key, TINY, CALLER))
    assert told["whole"]["text"]
    assert told["whole"]["cost"] > 0
    assert told["stream"]["text"]
    assert told["stream"]["usage"]["completion_tokens"] > 0
    assert told["tools"][0]["function"] == {"name": "price", "arguments": '{"of": "tea"}'}
    assert told["streamedTools"] == {"name": "price", "args": '{"of": "tea"}'}
    assert "{" in told["schema"]
    assert told["requestId"] == "from-javascript"
    assert told["error"] == {"status": 404, "code": "not_found"}
    assert set(told["models"]) == {TINY, FAST, CALLER}
    cancelled(market, told["cancelled"])
