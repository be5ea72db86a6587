"""The market's doors: bids, awards, entries, offers, receipts, accounts, and how this node is.

A bid comes in two ways. With an API key, this node signs for the key's account and does the whole of it. With a key of
one's own, the auction's proposal comes back; its award, signed as a ledger entry, is then handed to ``/v1/awards``.
"""

from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Query, Request
from msgspec import Meta, Raw, Struct
from starlette.responses import Response

from wwwmarket.crypto.canonical import ENTRY_BYTES_MAX
from wwwmarket.domain.book import ListedOffer
from wwwmarket.domain.errors import Malformed, TooLarge
from wwwmarket.domain.identity import AccountId, EntryId
from wwwmarket.domain.model import Precision
from wwwmarket.domain.quantity import MicroCredits, Millis, Slo, Usage
from wwwmarket.domain.records import Bid, Evidence, Inclusion, Offer, Outcome, Signed
from wwwmarket.gateway.config import GatewayConfig
from wwwmarket.gateway.generation import Generation, read_generation
from wwwmarket.gateway.preferences import read_preferences
from wwwmarket.gateway.request import account_id, api_key, decode, digest_of, entry_id, read_body
from wwwmarket.gateway.response import answer_of, json_response, until_answered
from wwwmarket.gateway.schemas import Schemas
from wwwmarket.gateway.splice import as_json, receipt_path
from wwwmarket.market.tab import TabProof
from wwwmarket.node.service import (
    AccountView,
    AsksView,
    Explanation,
    Finality,
    NodeStatus,
    Preferences,
    ProviderView,
    ReceiptView,
    Service,
)
from wwwmarket.ports.engine import Path

_EXAMPLE_CHAT: Final = {"model": "qwen3-8b", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 64}
_EXAMPLE_BID: Final = {
    "path": "/v1/chat/completions",
    "request": _EXAMPLE_CHAT,
    "max_price_micro": 5_000,
    "slo": {"ttft_ms": 500, "tpot_ms": 50},
    "time_value_micro_per_s": 100,
}
_EXAMPLE_AWARD: Final = {
    "entry": '{"account":"…","body":{"kind":"award/v1"},"prev":"…","seq":7,"signature":"…"}',
    "path": "/v1/chat/completions",
    "request": '{"model":"qwen3-8b","messages":[{"role":"user","content":"Hello"}],"max_tokens":64}',
    "salt": "00" * 32,
}
_EXAMPLE_ENTRY: Final = '{"account":"…","body":{"kind":"transfer/v1"},"prev":"…","seq":8,"signature":"…"}'

_Salt = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z", description="The 32 bytes that salt the bid's request digest")]
_Accounts = Annotated[tuple[AccountId, ...], Meta(max_length=64)]


class SignedBid(Struct, forbid_unknown_fields=True, frozen=True):
    """A bid by a client with a key of its own; its answer is the auction's proposal."""

    signed_bid: Signed[Bid]


class BidForKey(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A bid for an API key's account. ``request`` is bought byte for byte as it stands in this body."""

    path: Path
    request: Raw
    max_price_micro: MicroCredits | None = None
    slo: Slo | None = None
    time_value_micro_per_s: MicroCredits | None = None
    precisions: Annotated[tuple[Precision, ...], Meta(max_length=8)] | None = None
    only: _Accounts | None = None
    ignore: _Accounts | None = None
    allow_fallbacks: bool | None = None


class Bought(Struct, frozen=True, kw_only=True):
    """A finished purchase: the engine's answer as it was, what it cost, and where its receipt is. ``finality`` is that
    of the award; the settlement's is in the receipt.
    """

    award: EntryId
    provider: AccountId
    outcome: Outcome
    usage: Usage
    cost_micro: MicroCredits
    ttft_ms: Millis | None
    latency_ms: Millis
    receipt: str
    finality: Finality
    response: Raw


class SignedAward(Struct, forbid_unknown_fields=True, frozen=True):
    """An award that its client has signed: ``entry`` is the canonical text of the ledger entry, ``request`` the text
    whose salted digest the bid names.
    """

    entry: str
    path: Path
    request: str
    salt: _Salt


class OfferView(Struct, frozen=True):
    id: EntryId
    provider: AccountId
    offer: Offer
    finality: Finality = "none"


class OfferList(Struct, frozen=True):
    data: list[OfferView]


class AwardList(Struct, frozen=True):
    data: list[Explanation]


_FIELDS: Final = msgspec.json.Decoder(dict[str, Raw])
_SIGNED_BID: Final = msgspec.json.Decoder(SignedBid)
_BID_FOR_KEY: Final = msgspec.json.Decoder(BidForKey)
_SIGNED_AWARD: Final = msgspec.json.Decoder(SignedAward)


def router(service: Service, config: GatewayConfig, schemas: Schemas) -> APIRouter:
    doors = APIRouter(tags=["Market"])
    _add_bidding(doors, service, config, schemas)
    _add_awarding(doors, service, config, schemas)
    _add_reading(doors, service, schemas)
    return doors


def _add_bidding(doors: APIRouter, service: Service, config: GatewayConfig, schemas: Schemas) -> None:
    @doors.post(
        "/v1/bids",
        responses=schemas.answers_as(
            "application/json",
            {"oneOf": [schemas.of(Bought), schemas.of(Explanation)]},
            "The purchase; for a signed bid, the auction's proposal",
        ),
        openapi_extra=schemas.body({"oneOf": [schemas.of(BidForKey), schemas.of(SignedBid)]}, example=_EXAMPLE_BID),
    )
    async def bid(request: Request) -> Response:
        """Hold an auction: with an API key for the whole purchase, or with a signed bid for a proposed award."""
        body = await read_body(request, config, bytes_max=config.request_bytes_max)
        if "signed_bid" in decode(body, _FIELDS):
            return json_response(await service.auction(decode(body, _SIGNED_BID).signed_bid))
        return await _buy(request, body, service, config)


async def _buy(request: Request, body: bytes, service: Service, config: GatewayConfig) -> Response:
    key = api_key(request, service)
    bid = decode(body, _BID_FOR_KEY)
    wanted = read_generation(bid.path, bytes(bid.request), output_tokens_default=config.output_tokens_default)
    if wanted.stream:
        raise Malformed(f"this door answers whole: post a streamed request to {bid.path}", param="request.stream")
    events = service.purchase(wanted.purchase(key.account, _preferences(request, bid, wanted, service)))
    answered = await until_answered(request, events, config.response_bytes_max)
    if answered is None:
        return Response()  # nobody is there to read it
    answer, delivered = answered
    bought = Bought(
        award=delivered.award,
        provider=delivered.provider,
        outcome=delivered.outcome,
        usage=delivered.usage,
        cost_micro=delivered.cost_micro,
        ttft_ms=delivered.ttft_ms,
        latency_ms=delivered.latency_ms,
        receipt=receipt_path(delivered.award),
        finality=(await service.explain(delivered.award)).finality,
        response=as_json(answer),
    )
    return json_response(bought)


def _add_awarding(doors: APIRouter, service: Service, config: GatewayConfig, schemas: Schemas) -> None:
    @doors.post(
        "/v1/awards",
        responses=schemas.answers_as("application/json", {"type": "object"}, "The engine's answer, whole or as events"),
        openapi_extra=schemas.body(schemas.of(SignedAward), example=_EXAMPLE_AWARD),
    )
    async def award(request: Request) -> Response:
        """Execute an award that the client itself has signed.

        The answer is the engine's, byte for byte: its digest is what the provider attests.
        """
        signed = decode(await read_body(request, config, bytes_max=2 * config.request_bytes_max), _SIGNED_AWARD)
        leaf, text = signed.entry.encode(), signed.request.encode()
        if len(leaf) > ENTRY_BYTES_MAX:
            raise TooLarge(f"an entry is at most {ENTRY_BYTES_MAX} bytes", param="entry")
        wanted = read_generation(signed.path, text, output_tokens_default=config.output_tokens_default)
        events = service.accept(leaf, signed.path, text, bytes.fromhex(signed.salt))
        return answer_of(events, config, stream=wanted.stream, exact=True)

    @doors.post(
        "/v1/entries",
        responses=schemas.answers(Signed[Inclusion], "The operator's promise of inclusion"),
        openapi_extra=schemas.body({"type": "object"}, example=_EXAMPLE_ENTRY),
    )
    async def entry(request: Request) -> Response:
        """Order an entry: the body is its canonical bytes. The same bytes get the same promise."""
        leaf = await read_body(request, config, bytes_max=ENTRY_BYTES_MAX)
        return json_response(await service.submit(leaf))


def _preferences(request: Request, bid: BidForKey, wanted: Generation, service: Service) -> Preferences:
    """The bid's own fields over what headers and the request's ``provider`` object say."""
    preferences = read_preferences(request.headers, wanted.routing, lambda: service.offers(wanted.model))
    own = {name: getattr(bid, name) for name in Preferences.__struct_fields__}
    return msgspec.structs.replace(preferences, **{name: value for name, value in own.items() if value is not None})


def _add_reading(doors: APIRouter, service: Service, schemas: Schemas) -> None:  # noqa: C901 - one door each
    @doors.get("/v1/offers", responses=schemas.answers(OfferList, "In merit order: the cheapest output first"))
    async def offers(
        model: Annotated[str | None, Query(max_length=128)] = None, limit: Annotated[int, Query(ge=1, le=1_000)] = 100
    ) -> Response:
        ranked = sorted(service.offers(model), key=_merit)
        shown = [OfferView(name, one.provider, one.offer, service.offer_finality(name)) for name, one in ranked[:limit]]
        return json_response(OfferList(shown))

    @doors.get("/v1/awards", responses=schemas.answers(AwardList, "The latest first"))
    async def awards(limit: Annotated[int, Query(ge=1, le=200)] = 50) -> Response:
        return json_response(AwardList(list(await service.recent_awards(limit))))

    @doors.get("/v1/awards/{award}", responses=schemas.answers(Explanation, "Every ask, and why it won or lost"))
    async def explain(award: str) -> Response:
        return json_response(await service.explain(entry_id(award)))

    @doors.get("/v1/asks", responses=schemas.answers(AsksView, "What became of this provider's asks, the latest first"))
    async def asks(limit: Annotated[int, Query(ge=1, le=200)] = 50) -> Response:
        return json_response(service.asks(limit))

    @doors.get("/v1/evidence/{ask}", responses=schemas.answers(Evidence, "The proof of an auctioneer's fault"))
    async def evidence(ask: str) -> Response:
        """For an ask that was left out of its award, or outbid wrongly: ``wwwmarket audit --evidence`` judges it."""
        return json_response(await service.evidence(digest_of(ask)))

    @doors.get("/v1/receipts/{award}", responses=schemas.answers(ReceiptView, "Both sides' accounts of one execution"))
    async def receipt(award: str) -> Response:
        return json_response(await service.receipt(entry_id(award)))

    @doors.get("/v1/receipts/{award}/tab", responses=schemas.answers(TabProof, "That its tab pays for an answer"))
    async def tab_proof(award: str) -> Response:
        """Of an answer bought under a tab: ``wwwmarket tab verify`` judges it, with a copy of the ledger."""
        return json_response(await service.tab_proof(entry_id(award)))

    @doors.get(
        "/v1/accounts/{account}", responses=schemas.answers(AccountView, "A balance, and the next entry's place")
    )
    async def account(account: str) -> Response:
        return json_response(service.account(account_id(account)))

    @doors.get("/v1/providers/{account}", responses=schemas.answers(ProviderView, "What the ledger says of a provider"))
    async def provider(account: str) -> Response:
        """Its reputation is replayed from the ledger: every node has the same number at the same entry."""
        return json_response(service.provider(account_id(account)))

    @doors.get("/v1/status", responses=schemas.answers(NodeStatus, "How this node is"))
    async def status() -> Response:
        return json_response(service.status())


def _merit(item: tuple[EntryId, ListedOffer]) -> tuple[int, int, EntryId]:
    prices = item[1].offer.prices
    return prices.output_micro_per_mtok, prices.input_micro_per_mtok, item[0]
