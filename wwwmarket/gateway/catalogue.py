"""``/v1/models``: OpenAI's list in the form of OpenRouter's catalogue, with what the market knows of each model."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from fastapi import APIRouter
from msgspec import Struct
from starlette.responses import Response

from wwwmarket.domain.book import ListedOffer
from wwwmarket.domain.errors import NotFound
from wwwmarket.domain.quantity import Prices
from wwwmarket.gateway.amounts import price_per_token
from wwwmarket.gateway.response import json_response
from wwwmarket.gateway.schemas import Schemas
from wwwmarket.node.service import Explanation, Service

AWARDS_LOOKED_AT: Final = 200
"""What a share is taken of, over all models: enough to mean something, few enough to read at once."""
LOOK_AGAIN_S: Final = 5.0
"""How old the market's side may be: clients ask for the list at every start."""
SUPPORTED: Final = (
    *("max_tokens", "temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty"),
    *("repetition_penalty", "stop", "seed", "logprobs", "top_logprobs", "logit_bias"),
    *("response_format", "structured_outputs", "tools", "tool_choice"),
)
"""What the common engines understand, by OpenRouter's names. Every field reaches the engine, these or others."""


class Pricing(Struct, frozen=True):
    """Credits per token, as decimal strings; nobody here asks for more by request, image or search."""

    prompt: str
    completion: str
    input_cache_read: str
    request: str = "0"
    image: str = "0"
    web_search: str = "0"
    internal_reasoning: str = "0"


class Architecture(Struct, frozen=True):
    """What is known without asking an engine. ``tokenizer``: it is asked at ``/tokenize``."""

    modality: str = "text->text"
    input_modalities: tuple[str, ...] = ("text",)
    output_modalities: tuple[str, ...] = ("text",)
    tokenizer: str = "Other"
    instruct_type: str | None = None


class TopProvider(Struct, frozen=True):
    """The offer with the longest context; output is bounded by the context alone."""

    context_length: int
    max_completion_tokens: int | None = None
    is_moderated: bool = False


class Live(Struct, frozen=True, kw_only=True):
    """The market as this node saw it in its latest awards. ``attainment`` is the share of those that were finished, and
    both began and went on as fast as their bids wanted; None where there is none.
    """

    lowest_ask: Pricing | None
    awards: int
    attainment: float | None


class ModelCard(Struct, frozen=True, kw_only=True):
    """A model in OpenAI's list and OpenRouter's catalogue; ``pricing`` is the cheapest offer's, a ceiling of asks."""

    id: str
    canonical_slug: str
    name: str
    created: int
    description: str
    context_length: int
    architecture: Architecture
    pricing: Pricing
    top_provider: TopProvider
    supported_parameters: tuple[str, ...]
    providers: int
    quantizations: tuple[str, ...]
    market: Live
    per_request_limits: None = None
    hugging_face_id: str | None = None
    object: str = "model"
    owned_by: str = "wwwmarket"


class ModelList(Struct, frozen=True):
    data: list[ModelCard]
    object: str = "list"


class _Market:
    """The latest awards by model, looked at again when they are old."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._seen_s = -LOOK_AGAIN_S
        self._live: dict[str, Live] = {}

    async def live(self) -> dict[str, Live]:
        now_s = asyncio.get_running_loop().time()
        if now_s - self._seen_s >= LOOK_AGAIN_S:
            self._seen_s = now_s
            awards: defaultdict[str, list[Explanation]] = defaultdict(list)
            for award in await self._service.recent_awards(AWARDS_LOOKED_AT):
                awards[award.bid.model.name].append(award)
            self._live = {name: live_of(seen) for name, seen in awards.items()}
        return self._live


def router(service: Service, schemas: Schemas) -> APIRouter:
    doors = APIRouter(tags=["OpenAI"])
    market = _Market(service)

    @doors.get("/v1/models", responses=schemas.answers(ModelList, "What is on offer"))
    async def models() -> Response:
        by_name: defaultdict[str, list[ListedOffer]] = defaultdict(list)
        for _, listed in service.offers():
            by_name[listed.offer.model.name].append(listed)
        live = await market.live()
        return json_response(ModelList([_card(name, by_name[name], live) for name in sorted(by_name)]))

    @doors.get("/v1/models/{model:path}", responses=schemas.answers(ModelCard, "One model"))
    async def model(model: str) -> Response:
        listed = [offer for _, offer in service.offers(model)]
        if not listed:
            raise NotFound("nobody offers this model", param="model", reason="model_not_found")
        return json_response(_card(model, listed, await market.live()))

    return doors


def live_of(awards: Sequence[Explanation]) -> Live:
    """What some awards of one model, the latest first, say of its market now."""
    kept = [verdict for verdict in map(_kept_promise, awards) if verdict is not None]
    asks = (judged.ask.body.prices for award in awards[:1] for judged in award.asks if judged.ask is not None)
    return Live(
        lowest_ask=_pricing(asks),
        awards=len(awards),
        attainment=sum(kept) / len(kept) if kept else None,
    )


def _kept_promise(award: Explanation) -> bool | None:
    """Whether it was served within its bid's objective; None while that is open."""
    if award.status in {"expired", "refused"}:
        return False
    if award.latency_ms is None or award.usage is None:
        return None
    ttft_ms = award.latency_ms if award.ttft_ms is None else award.ttft_ms
    further = max(1, award.usage.output_tokens - 1)
    slo = award.bid.slo
    return ttft_ms <= slo.ttft_ms and award.latency_ms - ttft_ms <= slo.tpot_ms * further


def _card(name: str, listed: list[ListedOffer], live: dict[str, Live]) -> ModelCard:
    offers = [one.offer for one in listed]
    pricing = _pricing(offer.prices for offer in offers)
    assert pricing is not None, "a card is of a model on offer"
    providers = len({one.provider for one in listed})
    longest = max(offer.model.context_tokens for offer in offers)
    return ModelCard(
        id=name,
        canonical_slug=name,
        name=name,
        created=min(offer.valid_from_ms for offer in offers) // 1000,
        description=f"Offered by {providers} provider{'s' if providers > 1 else ''}; each request is auctioned.",
        context_length=longest,
        architecture=Architecture(),
        pricing=pricing,
        top_provider=TopProvider(longest),
        supported_parameters=SUPPORTED,
        providers=providers,
        quantizations=tuple(sorted({offer.model.precision for offer in offers})),
        market=live.get(name, Live(lowest_ask=None, awards=0, attainment=None)),
    )


def _pricing(prices: Iterable[Prices]) -> Pricing | None:
    """The cheapest for as much input as output."""
    lowest = min(
        prices,
        key=lambda one: (
            one.input_micro_per_mtok + one.output_micro_per_mtok,
            one.output_micro_per_mtok,
            one.cached_input_micro_per_mtok,
        ),
        default=None,
    )
    if lowest is None:
        return None
    return Pricing(
        prompt=price_per_token(lowest.input_micro_per_mtok),
        completion=price_per_token(lowest.output_micro_per_mtok),
        input_cache_read=price_per_token(lowest.cached_input_micro_per_mtok),
    )
