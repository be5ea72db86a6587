"""OpenAI's doors: chat completions, completions, embeddings, models."""

from typing import Final

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from wwwmarket.gateway.config import GatewayConfig
from wwwmarket.gateway.generation import ChatRequest, CompletionRequest, EmbeddingRequest, read_generation
from wwwmarket.gateway.preferences import read_preferences
from wwwmarket.gateway.repeats import Repeats, fingerprint_of, name_of
from wwwmarket.gateway.request import api_key, read_body, traceparent_of
from wwwmarket.gateway.response import answer_of
from wwwmarket.gateway.schemas import Schemas
from wwwmarket.node.service import Service
from wwwmarket.ports.engine import Path

_SUMMARY: Final = (
    "OpenAI's request and answer; every field reaches the engine. The body's `provider` object (OpenRouter's) and the "
    "headers `x-slo-ttft-ms`, `x-slo-tpot-ms`, `x-wwwmarket-max-price` (credits) and `x-wwwmarket-time-value` (credits "
    "per second) say what the auction is for. `usage.cost` (credits) and `wwwmarket` come back; in a stream, with "
    "`stream_options.include_usage`. The same request with the same `Idempotency-Key` is bought once: for ten minutes "
    "its answer comes again, for a day it is not bought again, and it is finished also when its client is gone."
)
_CHAT_EXAMPLE: Final = {"model": "qwen3-8b", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 64}
_COMPLETION_EXAMPLE: Final = {"model": "qwen3-8b", "prompt": "Once upon a time", "max_tokens": 64}
_EMBEDDING_EXAMPLE: Final = {"model": "qwen3-embedding-8b", "input": ["Hello", "Good day"]}


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
        purchase = msgspec.structs.replace(purchase, traceparent=traceparent_of(request.headers))
        name, fingerprint = name_of(request.headers, key.id), fingerprint_of(request, body)
        if name is not None:
            purchase = msgspec.structs.replace(purchase, name=name.text)
        events = repeats.once(name, fingerprint, lambda: service.purchase(purchase))
        return answer_of(events, config, stream=wanted.stream, include_usage=wanted.include_usage)

    @doors.post(
        "/v1/chat/completions",
        description=_SUMMARY,
        responses=schemas.answers_as("application/json", anything, "The engine's answer, or its events as they come"),
        openapi_extra=schemas.body(schemas.of(ChatRequest), example=_CHAT_EXAMPLE),
    )
    async def chat_completions(request: Request) -> Response:
        return await generate(request, "/v1/chat/completions")

    @doors.post(
        "/v1/completions",
        description=_SUMMARY,
        responses=schemas.answers_as("application/json", anything, "The engine's answer, or its events as they come"),
        openapi_extra=schemas.body(schemas.of(CompletionRequest), example=_COMPLETION_EXAMPLE),
    )
    async def completions(request: Request) -> Response:
        return await generate(request, "/v1/completions")

    @doors.post(
        "/v1/embeddings",
        description=_SUMMARY,
        responses=schemas.answers_as("application/json", anything, "The engine's answer"),
        openapi_extra=schemas.body(schemas.of(EmbeddingRequest), example=_EMBEDDING_EXAMPLE),
    )
    async def embeddings(request: Request) -> Response:
        return await generate(request, "/v1/embeddings")

    return doors
