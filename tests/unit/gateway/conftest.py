"""A market small enough to script: the whole of ``Service`` in memory, behind a real server on loopback."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from msgspec.structs import replace
from openai import AsyncOpenAI

from wwwmarket.crypto import canonical
from wwwmarket.crypto.signing import KeyPair, open_entry, sign, verify_certified
from wwwmarket.domain.book import Account, Governance, ListedOffer
from wwwmarket.domain.committee import Committee
from wwwmarket.domain.errors import InsufficientCredit, NotFound, Refusal, Unauthorised, Unavailable
from wwwmarket.domain.keys import Keys
from wwwmarket.domain.model import Model, ModelRequirement
from wwwmarket.domain.quantity import Prices, Slo, Usage
from wwwmarket.domain.records import Ask, Award, Bid, Capacity, Inclusion, NodeAddress, Offer, Promise
from wwwmarket.domain.standing import Reputation, Standing
from wwwmarket.gateway.app import create_app
from wwwmarket.gateway.config import GatewayConfig
from wwwmarket.gateway.server import Server
from wwwmarket.market.allowance import NO_LIMITS
from wwwmarket.market.auction import JudgedAsk
from wwwmarket.node.service import (
    AccountView,
    ApiKeyView,
    AsksView,
    Awarded,
    Counters,
    Delivered,
    Explanation,
    GovernanceView,
    NodeStatus,
    ProviderView,
    Purchase,
    ReceiptView,
)
from wwwmarket.ports.engine import ResponsePiece, ResponseStarted

KEY, EMPTY_KEY, ADMIN = "sk-ada", "sk-empty", "admin-token"
AWARD, PROVIDER, OFFER, NODE = "aa" * 32, "bb" * 32, "cc" * 32, "dd" * 32
USAGE = Usage(input_tokens=5, cached_input_tokens=0, output_tokens=2)
CLIENT = KeyPair(b"\x07" * 32)
PRICES = Prices(input_micro_per_mtok=100_000, cached_input_micro_per_mtok=10_000, output_micro_per_mtok=400_000)

AWARDED = Awarded(award=AWARD, provider=PROVIDER, prices=PRICES, locked_micro=900, auction_ms=3.5, attempt=1)
STARTED = ResponseStarted(content_type="application/json")
DELIVERED = Delivered(
    award=AWARD, provider=PROVIDER, outcome="completed", usage=USAGE, cost_micro=1_250, ttft_ms=40, latency_ms=90
)


def piece(data, *, tokens=True):
    return ResponsePiece(data=data if isinstance(data, bytes) else data.encode(), tokens=tokens)


def chunk(text=None, **more):
    delta = {"content": text} if text is not None else {"role": "assistant"}
    choices = [{"index": 0, "delta": delta, "finish_reason": None}]
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "tiny", "choices": choices}
    return b"data: " + json.dumps(head | more, separators=(",", ":")).encode() + b"\n\n"


USAGE_CHUNK = chunk(choices=[], usage={"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7})
WHOLE = (
    b'{ "id":"c1","object":"chat.completion","created":1,"model":"tiny","seed":1.50e1,'
    b'"choices":[{"index":0,"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7,"extra":[1,  2]}}'
)
STREAM = [
    AWARDED,
    STARTED,
    piece(chunk(), tokens=False),
    piece(chunk("Hel")),
    piece(chunk("lo")),
    piece(USAGE_CHUNK + b"data: [DONE]\n\n", tokens=False),
    DELIVERED,
]


def listed(provider=PROVIDER, *, output=400_000, model="tiny", precision="bf16"):
    return ListedOffer(
        provider=provider,
        offer=Offer(
            model=Model(name=model, revision="1", precision=precision, context_tokens=8_192),
            prices=Prices(
                input_micro_per_mtok=100_000, cached_input_micro_per_mtok=10_000, output_micro_per_mtok=output
            ),
            capacity=Capacity(sequences=8, tokens_per_s=1_000),
            promise=Promise(slo=Slo(ttft_ms=500, tpot_ms=50), percentile_ppm=950_000),
            accept_ppm=1_000_000,
            bond_micro=0,
            valid_from_ms=1_000,
            valid_until_ms=2_000,
            address=NodeAddress(node=NODE),
            sealing_key="ee" * 32,
        ),
    )


def signed_bid():
    bid = Bid(
        client=CLIENT.account,
        model=ModelRequirement(name="tiny"),
        input_tokens=5,
        max_input_tokens=9,
        expected_output_tokens=2,
        max_output_tokens=9,
        max_price_micro=900,
        time_value_micro_per_s=0,
        slo=Slo(ttft_ms=500, tpot_ms=50),
        request_digest="11" * 32,
        auctioneer=NODE,
        issued_ms=1,
        expires_ms=2,
    )
    return sign(CLIENT, bid).signed


def explanation():
    bid = signed_bid().body
    ask = Ask(
        bid="22" * 32,
        offer=OFFER,
        prices=PRICES,
        predicted_ttft_ms=40,
        predicted_finish_ms=90,
        slo=bid.slo,
        held_until_ms=3,
    )
    winner = sign(CLIENT, ask).signed
    award = Award(
        bid=bid,
        winner=winner,
        runner_up=None,
        asks=("33" * 32,),
        prices=PRICES,
        locked_micro=900,
        claim_after_ms=4,
        expires_ms=5,
    )
    judged = JudgedAsk(
        provider=PROVIDER,
        offer=OFFER,
        ask=winner,
        digest="33" * 32,
        score=7,
        cost_micro=900,
        verdict="won",
        reason="the lowest score",
    )
    return Explanation(
        id=AWARD,
        bid=bid,
        award=award,
        status="open",
        asks=(judged,),
        attempts=(AWARD,),
        auction_ms=3.5,
        ttft_ms=40,
        latency_ms=90,
        cost_micro=1_250,
        usage=USAGE,
        inclusion=None,
        finality="pending",
    )


class ScriptedMarket:
    """What the gateway asks of a ``Service``. Plays ``script`` for every purchase: events are yielded, exceptions raised, ``asyncio.Event``s waited for."""

    def __init__(self):
        self.script = None
        self.purchases = []
        self.begun = asyncio.Semaphore(0)
        self.looked = 0
        self.calls = []
        self.accepted = []
        self.closed = asyncio.Event()
        self.listed = [(OFFER, listed())]
        self.key_views = {
            secret: ApiKeyView(id=name, name=name, account=account, created_ms=1)
            for secret, name, account in ((KEY, "ada", "a0" * 32), (EMPTY_KEY, "empty", "e0" * 32))
        }
        self.awards = {AWARD: explanation()}
        self.draining = False
        self.paid = {}
        self.moved = set()
        self.totals = Counters(counters={"requests": 3.0}, gauges={"in_flight": 1.0}, histograms={})

    async def purchase(self, purchase: Purchase) -> AsyncIterator:
        self.purchases.append(purchase)
        self.begun.release()
        if purchase.account == "e0" * 32:
            raise InsufficientCredit("this key has 0 of the 900 micro-credits that this request locks")
        if not self.offers(purchase.model):
            raise NotFound("nobody offers this model", param="model", reason="model_not_found")
        async for event in self._play(purchase.request):
            yield event

    async def accept(self, leaf, path, request, salt):
        open_entry(leaf)
        self.accepted.append((leaf, path, request, salt))
        async for event in self._play(request):
            yield event

    async def _play(self, request):
        whole = [AWARDED, STARTED, piece(WHOLE), DELIVERED]
        script = self.script or (STREAM if json.loads(request).get("stream") else whole)
        try:
            for step in script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                else:
                    yield step
        except (asyncio.CancelledError, GeneratorExit):
            self.closed.set()
            raise

    async def auction(self, bid):
        self.purchases.append(bid)
        return self.awards[AWARD]

    async def tokenize(self, model, text):
        if not self.offers(model):
            raise NotFound("nobody offers this model", param="model", reason="model_not_found")
        return tuple(text.encode())

    async def submit(self, leaf):
        entry = open_entry(leaf)
        return sign(CLIENT, Inclusion(entry=entry.id, origin="test/log", index=3, covered_by_ms=9)).signed

    async def explain(self, award):
        return self._found(award)

    async def receipt(self, award):
        self._found(award)
        return ReceiptView(award=award, receipt=None, attestation=None, cost_micro=1_250, settlement_index=None)

    async def tab_proof(self, award):
        raise NotFound(f"{award} was made under no tab")

    def asks(self, limit):
        return AsksView(asks=limit, verdicts={"lost": limit}, median_gap_micro=7, latest=(), evidence=())

    async def evidence(self, ask):
        raise NotFound(f"there is no evidence about {ask}")

    async def recent_awards(self, limit):
        self.looked += 1
        return list(self.awards.values())[:limit]

    def account(self, account):
        return AccountView(id=account, balance=Account(available_micro=5), next_seq=0, prev="0" * 64)

    def provider(self, account):
        if account != "f0" * 32:
            raise NotFound("this ledger knows of no such provider", param="id")
        reputation = Reputation(score_ppm=800_000, newcomer=True, standing=Standing())
        return ProviderView(
            id=account,
            reputation=reputation,
            offers=(),
            bonded_micro=0,
            keys=Keys(owner=account),
            ledger_time_ms=5,
        )

    def offers(self, model=None):
        return [one for one in self.listed if model in (None, one[1].offer.model.name)]

    def offer_finality(self, offer):
        return "pending" if offer == OFFER else "final"

    def finality(self, index):
        return "pending" if index == 9 else "final"

    async def create_key(self, name, budget_micro, limits=NO_LIMITS):
        view = ApiKeyView(id=f"key-{name}", name=name, account="f0" * 32, created_ms=budget_micro, limits=limits)
        self.key_views[f"sk-{name}"] = view
        return f"sk-{name}", view

    async def keys(self):
        return list(self.key_views.values())

    async def revoke_key(self, key_id):
        return self._key(key_id)

    async def rotate_key(self, key_id):
        return f"sk-new-{key_id}", self._key(key_id)

    async def limit_key(self, key_id, limits):
        return replace(self._key(key_id), limits=limits)

    async def pay(self, to, amount_micro, name=None):
        self.calls.append(("pay", to, amount_micro, name))
        return self.account(to)

    async def top_up(self, key_id, amount_micro, name=None):
        if (key_id, name) not in self.moved:
            self.paid[key_id] = self.paid.get(key_id, 0) + amount_micro
        if name is not None:
            self.moved.add((key_id, name))
        return self._key(key_id)

    async def refund(self, key_id, amount_micro, name=None):
        return await self.top_up(key_id, -amount_micro, name and f"refund {name}")

    def authenticate(self, secret):
        if secret not in self.key_views:
            raise Unauthorised("this API key is not known here")
        return self.key_views[secret]

    def is_admin(self, secret):
        return secret == ADMIN

    def governance(self):
        return GovernanceView(
            origin="test.market", ledger_size=9, governance=Governance(committee=Committee(), contracts={})
        )

    async def decree(self, resolution):
        verify_certified(resolution)
        inclusion = Inclusion(entry=AWARD, origin="test.market", index=9, covered_by_ms=5)
        return sign(CLIENT, inclusion).signed

    def status(self):
        return NodeStatus(
            node=NODE,
            account=CLIENT.account,
            address=NodeAddress(node=NODE),
            origin="test/log",
            operator=CLIENT.account,
            is_operator=True,
            ledger_size=4,
            checkpoint_size=4,
            ledger_time_ms=1,
            offers=len(self.listed),
            peers=0,
            in_flight=0,
            draining=self.draining,
            started_ms=1,
            version="0.1.0",
        )

    def counters(self):
        return self.totals

    def verifier_key(self):
        return "test/log+00000000+AA=="

    def successions(self):
        return b"[]"

    async def checkpoint(self):
        return b"test/log\n4\nAAAA\n\n- test/log AAAA\n"

    def final_checkpoint(self):
        return b"test/log\n3\nAAAA\n\n- test/log AAAA\n- mirror.example AAAA\n"

    async def tile(self, path):
        if path not in {"tile/0/000", "tile/0/001.p/5", "tile/entries/000"}:
            raise NotFound("the latest checkpoint has no such tile")
        return b"\x01" * 32

    async def entry_proof(self, index):
        if index >= 4:
            raise NotFound("there is no such entry")
        return b"c2sp.org/tlog-proof@v1\nindex %d\n\n" % index + await self.checkpoint()

    async def account_proof(self, account):
        if account != CLIENT.account:
            raise Unavailable("no final checkpoint yet", retry_after_ms=1_000)
        return b"c2sp.org/tlog-proof@v1\nindex 3\n\n" + await self.checkpoint()

    def _found(self, award):
        if award not in self.awards:
            raise NotFound("no such award")
        return self.awards[award]

    def _key(self, key_id):
        for view in self.key_views.values():
            if view.id == key_id:
                return view
        raise NotFound("no such key")


@pytest.fixture
def market():
    return ScriptedMarket()


@pytest.fixture
def config():
    return GatewayConfig(request_bytes_max=65_536, shutdown_timeout_s=1)


@pytest.fixture
def app(market, config):
    return create_app(market, config=config)


@pytest.fixture
async def base_url(app, config):
    """A real server on a free port."""
    server = Server(app, "127.0.0.1", 0, config=config)
    port = await server.start()
    yield f"http://127.0.0.1:{port}"
    await server.stop()


@pytest.fixture
async def http(base_url):
    async with httpx.AsyncClient(base_url=base_url, headers={"authorization": f"Bearer {KEY}"}) as client:
        yield client


@pytest.fixture
async def doors(app):
    """The application without a server between."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://node", headers={"authorization": f"Bearer {KEY}"}
    ) as client:
        yield client


@pytest.fixture
async def openai(base_url):
    async with AsyncOpenAI(base_url=f"{base_url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def chat():
    return {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture
def scripts():
    """What scripts are made of."""

    class Scripts:
        awarded, started, delivered, usage_chunk, whole = AWARDED, STARTED, DELIVERED, USAGE_CHUNK, WHOLE
        piece, chunk, listed, signed_bid = map(staticmethod, (piece, chunk, listed, signed_bid))
        explanation = staticmethod(explanation)
        award, provider, admin, key, empty_key, client = AWARD, PROVIDER, ADMIN, KEY, EMPTY_KEY, CLIENT
        refusal, encode = Refusal, staticmethod(canonical.encode)

    return Scripts
