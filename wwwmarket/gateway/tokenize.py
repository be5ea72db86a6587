"""``/tokenize``, as vLLM and llama.cpp have it: passed on to an engine that serves the model.

It costs nothing. So it asks for an API key, of which each gets only so many a second, and providers have limits of
their own. Whoever is asked reads the text.
"""

import asyncio
from typing import Final

import msgspec
from fastapi import APIRouter, Request
from msgspec import Struct
from starlette.responses import Response

from wwwmarket.domain.errors import Exhausted, Malformed
from wwwmarket.domain.model import ModelName
from wwwmarket.gateway.config import GatewayConfig
from wwwmarket.gateway.request import FORM_BYTES_MAX, api_key, decode, read_body
from wwwmarket.gateway.response import json_response
from wwwmarket.gateway.schemas import Schemas
from wwwmarket.node.service import Service

_EXAMPLE: Final = {"model": "qwen3-8b", "prompt": "Name three rivers"}


class TextToTokenize(Struct, frozen=True):
    """``prompt`` is vLLM's name of the text, ``content`` llama.cpp's. Without ``model``, the only one on offer."""

    model: ModelName | None = None
    prompt: str | None = None
    content: str | None = None


class Tokens(Struct, frozen=True):
    """Of the text alone, nothing added to it. ``max_model_len`` is the longest context on offer."""

    count: int
    max_model_len: int
    tokens: tuple[int, ...]
    token_strs: None = None


_TEXT: Final = msgspec.json.Decoder(TextToTokenize)


class _PerKey:
    """How often each key has asked in the second that runs."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._begun_s = 0.0
        self._asked: dict[str, int] = {}

    def take(self, key_id: str) -> None:
        """Raises Exhausted."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._begun_s >= 1:
            self._begun_s = now_s
            self._asked.clear()
        asked = self._asked.get(key_id, 0)
        if asked >= self._config.tokenize_per_s:
            raise Exhausted(f"a key may tokenize {self._config.tokenize_per_s} times a second", retry_after_ms=1_000)
        self._asked[key_id] = asked + 1


def router(service: Service, config: GatewayConfig, schemas: Schemas) -> APIRouter:
    doors = APIRouter(tags=["OpenAI"])
    per_key = _PerKey(config)

    @doors.post(
        "/tokenize",
        responses=schemas.answers(Tokens, "The token ids of a text, from an engine behind the model"),
        openapi_extra=schemas.body(schemas.of(TextToTokenize), example=_EXAMPLE),
    )
    async def tokenize(request: Request) -> Response:
        """Free, and so bounded: 32 KiB of text, a few times a second for each key."""
        key = api_key(request, service)
        asked = decode(await read_body(request, config, bytes_max=FORM_BYTES_MAX), _TEXT)
        text = asked.prompt if asked.content is None else asked.content
        if text is None:
            raise Malformed("give the text as 'prompt' or 'content'; messages are not tokenized here", param="prompt")
        per_key.take(key.id)
        model = asked.model or _only_model(service)
        tokens = await service.tokenize(model, text)
        longest = max((one.offer.model.context_tokens for _, one in service.offers(model)), default=0)
        return json_response(Tokens(len(tokens), longest, tokens))

    return doors


def _only_model(service: Service) -> ModelName:
    names = {listed.offer.model.name for _, listed in service.offers()}
    if len(names) != 1:
        raise Malformed(f"say which model: {len(names)} are on offer", param="model")
    return names.pop()
