"""What clients of other markets and engines send besides, against a market of real llama.cpp engines: kept, or refused by
name.
"""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from wwwmarket.adapters.engines.tiny_model import make_model
from wwwmarket.cli.demo.processes import Child

CHAT = "/v1/chat/completions"
EMBEDDER = "tiny-embedder"
TERMS = ("--price-input", "900", "--price-output", "900", "--ttft-ms", "5000", "--tpot-ms", "500", "--capacity", "1")


@pytest.fixture(scope="module")
def key(market, program) -> dict[str, str]:
    made = program(
        *("node", "keys", "create", "--name", "extras", "--budget", "2", "--json"),
        gateway=market.base,
        admin_token_file=market.admin_token_file,
    )
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)


@pytest.fixture
def buyer(market, key) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {key['key']}"}
    with httpx.Client(base_url=market.base, headers=headers, trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture
def chat(market, buyer):
    """Asks for a few tokens, with further fields."""

    def ask(**fields: object) -> httpx.Response:
        body = {"model": market.model, "max_tokens": 8, "messages": [{"role": "user", "content": "The river"}]}
        return buyer.post(CHAT, json=body | fields)

    return ask


@pytest.fixture
def offers(http) -> dict[str, dict]:
    """By provider."""
    return {one["provider"]: one["offer"] for one in http.get("/v1/offers").json()["data"]}


def owned_micro(http, key) -> int:
    balance = http.get(f"/v1/accounts/{key['account']}").json()["balance"]
    return balance["available_micro"] + balance["locked_micro"]


def winner(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.headers["x-wwwmarket-provider"]


# OpenRouter's ``provider`` object


def test_only_and_ignore_choose_among_providers(chat, offers):
    """By account: the one that is named wins, and those that are ignored do not."""
    assert len(offers) >= 3
    for provider in offers:
        assert winner(chat(provider={"only": [provider]})) == provider
        others = [other for other in offers if other != provider]
        assert winner(chat(provider={"ignore": others})) == provider


def test_a_class_price_leaves_out_the_dearer(chat, offers):
    """``max_price`` in credits per million tokens: the cheapest alone is within its own list price, and nobody below it."""
    prices = {provider: offer["prices"]["output_micro_per_mtok"] for provider, offer in offers.items()}
    cheapest = min(prices, key=prices.__getitem__)
    cap = prices[cheapest] / 1_000_000
    assert winner(chat(provider={"max_price": {"completion": cap}})) == cheapest
    refused = chat(provider={"max_price": {"completion": cap / 2}})
    assert (refused.status_code, refused.json()["error"]["param"]) == (503, "provider.max_price")
    assert "retry-after" in refused.headers


@pytest.mark.parametrize(
    "wish",
    [
        {"sort": "throughput"},
        {"sort": {"by": "price", "partition": None}},
        {"allow_fallbacks": False, "require_parameters": True, "data_collection": "allow"},
        {"preferred_max_latency": 60, "preferred_min_throughput": {"p50": 1}},
    ],
)
def test_other_wishes_are_kept(chat, offers, wish):
    """They are answered, by one of those on offer."""
    assert winner(chat(provider=wish)) in offers


@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ({"order": ["anthropic"]}, "order"),
        ({"zdr": True}, "provider.zdr"),
        ({"data_collection": "deny"}, "provider.data_collection"),
        ({"only": ["anthropic"]}, "provider.only[0]"),
    ],
)
def test_wishes_that_nobody_here_can_keep_are_refused_by_name(chat, http, key, wish, param):
    """400 with the name of the field, and nothing is paid."""
    before_micro = owned_micro(http, key)
    refused = chat(provider=wish)
    error = refused.json()["error"]
    assert (refused.status_code, error["param"]) == (400, param)
    assert param.rpartition(".")[2].split("[")[0] in error["message"]
    assert owned_micro(http, key) == before_micro


def test_a_quantization_that_nobody_offers_is_503(chat):
    """The message says what is on offer, or that nothing meets it; it is no fault of the request's form."""
    refused = chat(provider={"quantizations": ["fp4"]})
    assert refused.status_code in {404, 503}, refused.text
    assert refused.json()["error"]["message"]


# /tokenize


@pytest.mark.parametrize("field", ["prompt", "content"])
def test_a_text_is_tokenized(market, buyer, http, key, field):
    """By vLLM's name of the text and by llama.cpp's; more text has more tokens, and nothing is paid."""
    before_micro = owned_micro(http, key)
    counts = []
    for text in ("The river", "The river runs down to the sea"):
        told = buyer.post("/tokenize", json={"model": market.model, field: text}).json()
        assert len(told["tokens"]) == told["count"]
        assert told["max_model_len"] > told["count"]
        counts.append(told["count"])
    assert 0 < counts[0] < counts[1]
    assert owned_micro(http, key) == before_micro


def test_what_cannot_be_tokenized_is_refused(market, buyer, http):
    """Without a key, without a text, of a model that nobody has."""
    text = {"model": market.model, "prompt": "The river"}
    assert http.post("/tokenize", json=text).status_code == 401
    assert buyer.post("/tokenize", json={"model": market.model, "messages": []}).status_code == 400
    assert buyer.post("/tokenize", json=text | {"model": "nobody/has-it"}).status_code == 404


# Usage while a stream goes on


@pytest.mark.parametrize("include_usage", [True, False])
def test_usage_in_every_chunk_may_be_asked_for(market, key, include_usage):
    """An engine that has no such thing (llama.cpp) answers as without it: usage once, last, where it was asked for."""
    options = {"include_usage": include_usage, "continuous_usage_stats": True}
    with openai.OpenAI(base_url=market.gateway, api_key=key["key"], max_retries=0) as client:
        chunks = list(
            client.chat.completions.create(
                model=market.model,
                messages=[{"role": "user", "content": "The river"}],
                max_tokens=8,
                stream=True,
                stream_options=options,
            )
        )
    told = [chunk.usage for chunk in chunks if chunk.usage is not None]
    assert any(chunk.choices and chunk.choices[0].delta.content for chunk in chunks)
    assert [usage.completion_tokens > 0 for usage in told] == ([True] if include_usage else [])
    assert not include_usage or chunks[-1].usage.cost > 0


# Embeddings


@contextlib.contextmanager
def embedder(python: str, folder: Path) -> Iterator[str]:
    """A llama.cpp that embeds."""
    model = folder / f"{EMBEDDER}.gguf"
    make_model(model, seed=1, name=EMBEDDER)
    words = ["wwwmarket.adapters.engines.embedded", "--model", model, "--name", EMBEDDER, "--embeddings"]
    with subprocess.Popen(
        [python, "-P", "-m", *map(str, words)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as engine:
        try:
            port = "".join(filter(str.isdigit, engine.stdout.readline().decode()))
            yield f"http://127.0.0.1:{port}"
        finally:
            engine.stdin.close()


def test_embeddings_are_sold(market, buyer, http, key, python, until, tmp_path):  # noqa: PLR0917 - what it is done with
    """A vector for each text, paid for by input tokens alone."""
    before_micro = owned_micro(http, key)
    with embedder(python, tmp_path) as engine:
        words = ["provider", "join", "--market", market.base, "--engine", engine, "--no-benchmark", *TERMS]
        with Child("embedder", words, tmp_path / "data") as provider:
            account = provider.ready().account
            until(lambda: EMBEDDER in [one["id"] for one in http.get("/v1/models").json()["data"]], "it is on offer")
            with openai.OpenAI(base_url=market.gateway, api_key=key["key"], max_retries=0) as client:
                made = client.embeddings.create(model=EMBEDDER, input=["The river", "the sea"], encoding_format="float")
            assert [len(one.embedding) > 1 for one in made.data] == [True, True]
            assert made.usage.prompt_tokens > 0
            earned = f"/v1/accounts/{account}"
            until(lambda: http.get(earned).json()["balance"]["available_micro"], "it is paid")
            paid_micro = before_micro - owned_micro(http, key)
            assert paid_micro == http.get(earned).json()["balance"]["available_micro"]
            assert paid_micro == -(-made.usage.prompt_tokens * 900_000_000 // 1_000_000)


def test_embeddings_of_an_engine_that_makes_none_are_refused(market, buyer, http, key, until):
    """In the engine's own words, and nothing is paid."""
    before_micro = owned_micro(http, key)
    refused = buyer.post("/v1/embeddings", json={"model": market.model, "input": "The river"})
    assert refused.status_code >= 400
    assert refused.json()["error"]["message"]
    until(lambda: owned_micro(http, key) == before_micro, "nothing is paid")
