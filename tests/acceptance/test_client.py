"""The client with its own key, in a market of real processes: it signs, checks, pays what it got, and proves it."""

import asyncio
import json
from contextlib import closing

import pytest
from openai import APIStatusError, BadRequestError

from wwwmarket.adapters.keystore import KeyStore
from wwwmarket.adapters.system import SystemEntropy
from wwwmarket.client import AsyncClient, Client, Terms
from wwwmarket.client.openai import async_openai_over, openai_over
from wwwmarket.crypto import canonical
from wwwmarket.crypto.digest import response_digest
from wwwmarket.crypto.signing import KeyPair, open_entry
from wwwmarket.domain.errors import InsufficientCredit, NotFound, Unauthorised
from wwwmarket.domain.quantity import Slo
from wwwmarket.domain.records import Settlement
from wwwmarket.ledger.note import VerifierKey

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Tell me about the river."}]


@pytest.fixture(scope="module")
def founder(market):
    """The node that has the market's credits."""
    return KeyStore(market.data / "node" / "keys").load("node", None)


@pytest.fixture
def key(market, founder):
    """A key with a credit, that no node has ever seen."""
    made = KeyPair(SystemEntropy().bytes(32))
    with Client(market.base, founder) as payer:
        payer.transfer(made.account, 1_000_000)
    return made


@pytest.fixture
def client(market, key):
    with Client(market.base, key, log=market.vkey) as made:
        yield made


def asked(market, **fields):
    return {"model": market.model, "messages": HELLO, "max_tokens": 16} | fields


def spent(client) -> int:
    balance = client.account().balance
    return 1_000_000 - balance.available_micro - balance.locked_micro


def test_an_answer_is_bought_by_ones_own_signature(market, client, until):
    """The digest of the very bytes is what the provider attested; the settlement is proven to stand on the ledger, and
    the account has paid what the client's receipt says.
    """
    purchase = client.buy(CHAT, asked(market))
    bought = purchase.bought
    assert json.loads(purchase.answer)["choices"][0]["message"]["content"]
    assert bought.attestation.body.response_digest == response_digest(purchase.answer)
    assert (bought.outcome, bought.receipt.body.verdict) == ("completed", "agreed")
    assert 0 < bought.usage.output_tokens <= 16
    until(lambda: spent(client) == bought.cost_micro, "the settlement is paid")

    def proven():
        try:
            return client.prove(bought.settlement.body.index)
        except NotFound:
            return None

    proof = until(proven, "a checkpoint covers the settlement")
    body = bytes(open_entry(proof.leaf).entry.body)
    settled = canonical.decode(body, Settlement)
    assert (settled.award, settled.receipt) == (bought.award, bought.receipt)
    assert client.explain(bought.award).award.winner.signer == bought.provider


def test_a_stream_is_bought_as_it_comes(market, client):
    """Whole events, in several pieces, with the engine's own end; what is attested is their digest."""
    with client.purchase(CHAT, asked(market, stream=True, max_tokens=400, ignore_eos=True)) as purchase:
        pieces = list(purchase)
    assert len(pieces) > 1
    assert pieces[-1].endswith(b"data: [DONE]\n\n")
    assert purchase.bought.attestation.body.response_digest == response_digest(b"".join(pieces))
    assert purchase.bought.ttft_ms <= purchase.bought.latency_ms


def test_leaving_early_pays_what_was_delivered(market, client, until):
    """The block is left after the first piece: less than the whole is paid, by both sides' word."""
    with client.purchase(CHAT, asked(market, stream=True, max_tokens=2_000, ignore_eos=True)) as purchase:
        next(iter(purchase))
    assert purchase.bought.outcome == "cancelled"
    assert 0 < purchase.bought.usage.output_tokens < 2_000
    until(lambda: spent(client) == purchase.bought.cost_micro, "delivered tokens are paid")


def test_what_nobody_sells_on_these_terms_costs_nothing(market, client):
    """No such model, no such price, an account without credit: refusals that a program can tell apart."""
    with pytest.raises(NotFound):
        client.buy(CHAT, asked(market, model="nobody/has-it"))
    with pytest.raises(InsufficientCredit):
        client.buy(CHAT, asked(market), Terms(max_price_micro=0, slo=Slo(ttft_ms=5_000, tpot_ms=500)))
    with Client(market.base, KeyPair(SystemEntropy().bytes(32))) as poor, pytest.raises(InsufficientCredit):
        poor.buy(CHAT, asked(market))
    assert spent(client) == 0


def test_another_log_than_the_one_that_was_named_is_refused(market, key):
    """A gateway of some other market gets no signature."""
    other = VerifierKey(name="other.market", account=key.account).text
    with Client(market.base, key, log=other) as client, pytest.raises(Unauthorised) as told:
        client.buy(CHAT, asked(market))
    assert told.value.reason == "client_1"


def test_openais_client_buys_by_ones_own_signature(market, client):
    """Whole and streamed, with and without usage; models are listed; refusals have their HTTP codes."""
    sales = []
    with closing(openai_over(client, on_bought=sales.append, max_retries=0)) as ai:
        answer = ai.chat.completions.create(**asked(market))
        assert answer.choices[0].message.content
        assert answer.wwwmarket["award"] == sales[0].award
        chunks = list(ai.chat.completions.create(**asked(market, stream=True)))
        assert all(chunk.choices for chunk in chunks)
        counted = list(ai.chat.completions.create(**asked(market, stream=True, stream_options={"include_usage": True})))
        assert counted[-1].usage.completion_tokens > 0
        assert [model.id for model in ai.models.list()] == [market.model]
        with pytest.raises(APIStatusError) as told:
            ai.chat.completions.create(**asked(market), extra_headers={"x-wwwmarket-max-price": "0"})
        assert told.value.status_code == 402
        with pytest.raises(BadRequestError):
            ai.chat.completions.create(**asked(market, temperature="hot"))
    assert [sale.outcome for sale in sales] == ["completed"] * 3


async def test_the_awaited_client_buys_several_at_once(market, key):
    """Its entries stand in one chain, however its purchases overlap; OpenAI's awaited client works over it."""
    async with AsyncClient(market.base, key, log=market.vkey) as client:
        bought = await asyncio.gather(*(client.buy(CHAT, asked(market)) for _ in range(4)))
        assert {purchase.bought.outcome for purchase in bought} == {"completed"}
        assert len({purchase.bought.award for purchase in bought}) == 4
        stream = async_openai_over(client, max_retries=0).chat.completions
        words = [
            chunk.choices[0].delta.content or "" async for chunk in await stream.create(**asked(market, stream=True))
        ]
        assert "".join(words)
