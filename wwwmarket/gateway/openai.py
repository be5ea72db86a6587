"""OpenAI's doors: chat completions, completions, embeddings, models."""

from collections import defaultdict
from typing import Final

from fastapi import APIRouter, Request
from msgspec import Struct
from starlette.responses import Response

from wwwmarket.domain.book import ListedOffer
from wwwmarket.domain.errors import NotFound
from wwwmarket.gateway.amounts import price_per_token
from wwwmarket.gateway.config import GatewayConfig
from wwwmarket.gateway.generation import read_generation
from wwwmarket.gateway.preferences import read_preferences
from wwwmarket.gateway.repeats import Repeats, fingerprint_of, name_of
from wwwmarket.gateway.request import api_key, read_body
from wwwmarket.gateway.response import answer_of, json_response
from wwwmarket.gateway.schemas import Schemas
from wwwmarket.node.service import Service
from wwwmarket.ports.engine import Path

_SUMMARY: Final = (
    "OpenAI's request and answer; every field reaches the engine. The body's `provider` object (OpenRouter's) and the "
    "headers `x-slo-ttft-ms`, `x-slo-tpot-ms`, `x-wwwmarket-max-price` (credits) and `x-wwwmarket-time-value` (credits "
    "per second) say what the auction is for. `usage.cost` (credits) and `wwwmarket` come back; in a stream, with "
    "`stream_options.include_usage`. The same request with the same `Idempotency-Key` is bought once: for ten minutes "
    "its answer comes again, and it is finished also when its client is gone."
)
_CHAT_EXAMPLE: Final = {"model": "qwen3-8b", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 64}
_COMPLETION_EXAMPLE: Final = {"model": "qwen3-8b", "prompt": "Once upon a time", "max_tokens": 64}
_EMBEDDING_EXAMPLE: Final = {"model": "qwen3-embedding-8b", "input": ["Hello", "Good day"]}


class Pricing(Struct, frozen=True):
    """Credits per token, as decimal strings."""

    prompt: str
    completion: str
    input_cache_read: str


class ModelCard(Struct, frozen=True):
    """A model in OpenAI's list, with the market's side of it: the cheapest offer's price, the longest context."""

    id: str
    created: int
    context_length: int
    pricing: Pricing
    providers: int
    quantizations: tuple[str, ...]
    object: str = "model"
    owned_by: str = "wwwmarket"


class ModelList(Struct, frozen=True):
    data: list[ModelCard]
    object: str = "list"


def router(service: Service, config: GatewayConfig, schemas: Schemas) -> APIRouter:
    doors = APIRouter(tags=["OpenAI"])
    anything = {"type": "object"}
    repeats = Repeats(config)

    async def generate(request: Request, path: Path) -> Response:
        key = api_key(request, service)
        body = await read_body(request, config, bytes_max=config.request_bytes_max)
        wanted = read_generation(path, body, output_tokens_default=config.output_tokens_default)
        preferences = read_preferences(request.headers, wanted.routing, lambda: service.offers(wanted.model))
        purchase = wanted.purchase(key.account, preferences)
        name, fingerprint = name_of(request.headers, key.id), fingerprint_of(request, body)
        events = repeats.once(name, fingerprint, lambda: service.purchase(purchase))
        return answer_of(events, config, stream=wanted.stream, include_usage=wanted.include_usage)

    @doors.post(
        "/v1/chat/completions",
        description=_SUMMARY,
        responses=schemas.answers_as("application/json", anything, "The engine's answer, or its events as they come"),
        openapi_extra=schemas.body(anything, example=_CHAT_EXAMPLE),
    )
    async def chat_completions(request: Request) -> Response:
        return await generate(request, "/v1/chat/completions")

    @doors.post(
        "/v1/completions",
        description=_SUMMARY,
        responses=schemas.answers_as("application/json", anything, "The engine's answer, or its events as they come"),
        openapi_extra=schemas.body(anything, example=_COMPLETION_EXAMPLE),
    )
    async def completions(request: Request) -> Response:
        return await generate(request, "/v1/completions")

    @doors.post(
        "/v1/embeddings",
        description=_SUMMARY,
        responses=schemas.answers_as("application/json", anything, "The engine's answer"),
        openapi_extra=schemas.body(anything, example=_EMBEDDING_EXAMPLE),
    )
    async def embeddings(request: Request) -> Response:
        return await generate(request, "/v1/embeddings")

    @doors.get("/v1/models", responses=schemas.answers(ModelList, "What is on offer"))
    async def models() -> Response:
        by_name: defaultdict[str, list[ListedOffer]] = defaultdict(list)
        for _, listed in service.offers():
            by_name[listed.offer.model.name].append(listed)
        return json_response(ModelList([_card(name, by_name[name]) for name in sorted(by_name)]))

    @doors.get("/v1/models/{model:path}", responses=schemas.answers(ModelCard, "One model"))
    async def model(model: str) -> Response:
        listed = [offer for _, offer in service.offers(model)]
        if not listed:
            raise NotFound("nobody offers this model", param="model", reason="model_not_found")
        return json_response(_card(model, listed))

    return doors


def _card(name: str, listed: list[ListedOffer]) -> ModelCard:
    offers = [one.offer for one in listed]
    lowest = min(
        (offer.prices for offer in offers),
        key=lambda prices: (
            prices.input_micro_per_mtok + prices.output_micro_per_mtok,
            prices.output_micro_per_mtok,
            prices.cached_input_micro_per_mtok,
        ),
    )
    return ModelCard(
        id=name,
        created=min(offer.valid_from_ms for offer in offers) // 1000,
        context_length=max(offer.model.context_tokens for offer in offers),
        pricing=Pricing(
            prompt=price_per_token(lowest.input_micro_per_mtok),
            completion=price_per_token(lowest.output_micro_per_mtok),
            input_cache_read=price_per_token(lowest.cached_input_micro_per_mtok),
        ),
        providers=len({one.provider for one in listed}),
        quantizations=tuple(sorted({offer.model.precision for offer in offers})),
    )
