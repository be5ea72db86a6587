"""Any engine behind OpenAI's HTTP interface: vLLM, SGLang, llama.cpp, and what imitates them.

What it is comes from ``/v1/models``, ``/version`` and ``/props``; what it is doing from ``/metrics``. Answers pass
through as the exact bytes that the engine sent.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from http import HTTPStatus
from typing import Annotated, Final, Literal, TypeAlias, TypeVar

import msgspec
from aiohttp import ClientResponse
from msgspec import Meta

from wwwmarket.adapters.engines import engine_listing, engine_metrics, openai_stream
from wwwmarket.adapters.engines.engine_http import RETRY_AFTER_MS, EngineHttp, read_at_most
from wwwmarket.adapters.engines.engine_listing import EngineFacts
from wwwmarket.adapters.engines.openai_request import PreparedRequest, prepare
from wwwmarket.domain.errors import Unavailable
from wwwmarket.domain.model import ModelName
from wwwmarket.domain.quantity import Tokens, Usage
from wwwmarket.ports.engine import (
    EngineDescription,
    EngineEvent,
    EngineRefused,
    EngineState,
    Path,
    ResponseFinished,
    ResponsePiece,
    ResponseStarted,
)

T = TypeVar("T")
UsageSource: TypeAlias = Literal["engine", "tokenize", "pieces"]

SILENCE_TIMEOUT_S: Final = 120.0
"""Longest wait for the next byte of an answer, the first one included: a queue may stand before it."""
ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
ERROR_BYTES_MAX: Final = 64 * 1024
METRICS_BYTES_MAX: Final = 4 * 1024 * 1024
WORDS_BYTES_MAX: Final = 1024
"""Of an error that is in no form of OpenAI's."""
BYTES_PER_TOKEN: Final = 4
"""For the input of an engine that can neither count nor tokenize: the usual length of English text."""
OURS_TO_MEND: Final = frozenset({401, 403, 407, 408, 429})
"""Statuses that speak of this provider's key or of the engine's load, and not of the client's request."""


class OpenAiEngine:
    """The engine port over HTTP/1.1 with connections kept alive.

    ``blind``: the operator says that the engine has no metrics; its state is then this adapter's own count.
    ``priority``: what the market's requests have in the engine's queue, where it has priorities (in vLLM and SGLang the
    lower number goes first, and 0 is what others have); the client's own wish never counts.
    """

    def __init__(  # noqa: PLR0913 - what an operator states of its engine
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        facts: EngineFacts | None = None,
        blind: bool = False,
        priority: int | None = None,
        silence_timeout_s: float = SILENCE_TIMEOUT_S,
    ) -> None:
        self._facts = facts or EngineFacts()
        self._blind = blind
        self._priority = priority
        self._in_flight = 0
        self._served: frozenset[str] | None = None
        self._usage_source: UsageSource = "engine"
        self._http = EngineHttp(base_url, api_key, silence_timeout_s=silence_timeout_s)

    @property
    def usage_source(self) -> UsageSource:
        """Who counted the latest answer: the engine; its tokenizer, asked afterwards; or nobody but the pieces."""
        return self._usage_source

    async def describe(self) -> EngineDescription:
        told = engine_listing.Told(
            listing=await self._get_as("/v1/models", engine_listing.Listing),
            version=await self._get_as("/version", engine_listing.Version, absent=engine_listing.Version()),
            props=await self._get_as("/props", engine_listing.Props, absent=engine_listing.Props()),
            server=await self._get_as(
                "/get_server_info", engine_listing.ServerInfo, absent=engine_listing.ServerInfo()
            ),
            kv_tokens_max=await self._kv_tokens_max(),
        )
        description = engine_listing.describe(told, self._facts, blind=self._blind)
        self._served = frozenset(model.name for model in description.models)
        return description

    async def state(self) -> EngineState:
        if self._blind:
            await self._get("/v1/models")  # one that does not answer is not idle
            return EngineState(running=self._in_flight, waiting=0)
        try:
            metrics = await self._get("/metrics")
        except _Answered:
            # a llama.cpp without --metrics still shows its slots
            return engine_metrics.read_slots(await self._get("/slots"), in_flight=self._in_flight)
        return engine_metrics.read_state(metrics)

    async def execute(
        self, path: Path, request: bytes, *, output_tokens_max: Tokens
    ) -> AsyncGenerator[EngineEvent, None]:
        prepared = prepare(path, request, output_tokens_max=output_tokens_max, priority=self._priority)
        if self._served is not None and prepared.model not in self._served:
            # llama.cpp would answer under any name
            raise EngineRefused(404, _unknown_model(prepared.model))
        self._in_flight += 1
        try:
            async with self._http.answer("POST", path, prepared.body) as response:
                if response.status != HTTPStatus.OK:
                    raise await _failure(response)
                yield ResponseStarted(content_type=response.headers.get("content-type", "application/json"))
                events = self._streamed(prepared, response) if prepared.stream else self._whole(prepared, response)
                async with aclosing(events):
                    async for event in events:
                        yield event
        finally:
            self._in_flight -= 1

    async def tokenize(self, model: ModelName, text: str) -> tuple[int, ...] | None:
        """By ``/tokenize``: ``prompt`` is vLLM's and SGLang's field, ``content`` llama.cpp's."""
        body = msgspec.json.encode({"model": model, "prompt": text, "content": text, "add_special_tokens": False})
        try:
            async with self._http.answer("POST", "/tokenize", body) as response:
                answer = await read_at_most(response, ANSWER_BYTES_MAX)
            if response.status != HTTPStatus.OK:
                return None
            return msgspec.json.decode(answer, type=_Tokenized).tokens
        except (Unavailable, msgspec.DecodeError, UnicodeDecodeError):
            return None

    async def close(self) -> None:
        await self._http.close()

    async def _kv_tokens_max(self) -> Tokens | None:
        """Asked once, so that an engine without metrics is not unknown for that."""
        try:
            return engine_metrics.read_kv_tokens(await self._get("/metrics"))
        except _Answered:
            return None

    async def _streamed(self, prepared: PreparedRequest, response: ClientResponse) -> AsyncGenerator[EngineEvent, None]:
        splitter = openai_stream.EventSplitter()
        usage_piece, kept, size, texts, done = b"", [], 0, 0, False
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > ANSWER_BYTES_MAX:
                raise Unavailable("the engine's answer is over the limit", retry_after_ms=RETRY_AFTER_MS)
            piece = splitter.feed(chunk)
            if not piece:
                continue
            if openai_stream.has_error(piece):
                raise Unavailable("the engine failed during its answer", retry_after_ms=RETRY_AFTER_MS)
            if openai_stream.has_usage(piece):
                usage_piece = piece
            elif not usage_piece:
                kept.append(piece)
            found = openai_stream.count_texts(piece)
            texts += found
            done = done or openai_stream.is_done(piece)
            yield ResponsePiece(data=piece, tokens=found > 0)
        if not done or splitter.rest.strip():
            raise Unavailable("the engine's answer ended early", retry_after_ms=RETRY_AFTER_MS)
        usage = openai_stream.usage_of_stream(usage_piece)
        if usage is None:
            text = "".join(openai_stream.text_of(e) for piece in kept for e in openai_stream.events(piece))
            usage = await self._counted(prepared, text, texts)
        else:
            self._usage_source = "engine"
        yield ResponseFinished(usage=usage)

    async def _whole(self, prepared: PreparedRequest, response: ClientResponse) -> AsyncGenerator[EngineEvent, None]:
        body = await read_at_most(response, ANSWER_BYTES_MAX)
        yield ResponsePiece(data=body, tokens=True)
        usage = openai_stream.usage_of(body)
        if usage is None:
            text = openai_stream.text_of(body)
            usage = await self._counted(prepared, text, -(-len(text.encode()) // BYTES_PER_TOKEN))
        else:
            self._usage_source = "engine"
        yield ResponseFinished(usage=usage)

    async def _counted(self, prepared: PreparedRequest, text: str, texts: int) -> Usage:
        """Usage that the engine did not give: by its tokenizer, else by the pieces and the request's length."""
        output = await self._tokenized(prepared.model, text)
        source = await self._tokenized(prepared.model, prepared.body.decode(errors="replace"))
        self._usage_source = "pieces" if output is None else "tokenize"
        return Usage(
            input_tokens=-(-len(prepared.body) // BYTES_PER_TOKEN) if source is None else source,
            cached_input_tokens=0,
            output_tokens=texts if output is None else output,
        )

    async def _tokenized(self, model: str, text: str) -> int | None:
        ids = await self.tokenize(model, text)
        return None if ids is None else len(ids)

    async def _get(self, path: str) -> bytes:
        """The body at ``path``.

        Raises:
            Unavailable: no answer in time, or one that is not 200.
        """
        async with self._http.answer("GET", path) as response:
            body = await read_at_most(response, METRICS_BYTES_MAX)
        if response.status != HTTPStatus.OK:
            raise _Answered(path, response.status)
        return body

    async def _get_as(self, path: str, kind: type[T], *, absent: T | None = None) -> T:
        """The JSON at ``path``; ``absent``, where given, for an engine that knows no such path."""
        try:
            return msgspec.json.decode(await self._get(path), type=kind)
        except (_Answered, msgspec.DecodeError, UnicodeDecodeError) as error:
            if absent is not None:
                return absent
            if isinstance(error, _Answered):
                raise
            raise Unavailable(f"the engine's {path} makes no sense: {error}", retry_after_ms=RETRY_AFTER_MS) from None


class _Answered(Unavailable):
    """The engine is there, and answers a poll with an error."""

    def __init__(self, path: str, status: int) -> None:
        super().__init__(f"the engine answered {status} at {path}", retry_after_ms=RETRY_AFTER_MS)


class _Tokenized(msgspec.Struct):
    tokens: tuple[Annotated[int, Meta(ge=0, le=2**32)], ...]


async def _failure(response: ClientResponse) -> EngineRefused | Unavailable:
    """What an answer other than 200 means."""
    status = response.status
    body = await read_at_most(response, ERROR_BYTES_MAX)
    if 400 <= status < 500 and status not in OURS_TO_MEND:
        return EngineRefused(status, body if b'"error"' in body else _unspoken(status, body))
    return Unavailable(f"the engine answered {status}", retry_after_ms=RETRY_AFTER_MS)


def _unspoken(status: int, body: bytes) -> bytes:
    """An error in OpenAI's form, for what an engine says in another, such as of a path that it does not have."""
    words = body[:WORDS_BYTES_MAX].decode(errors="replace").strip()
    error = {"message": f"The engine answered {status}: {words}", "type": "invalid_request_error", "param": None}
    return msgspec.json.encode({"error": error | {"code": None}})


def _unknown_model(model: str) -> bytes:
    error = {"message": f"The model `{model}` does not exist.", "type": "NotFoundError", "param": "model", "code": 404}
    return msgspec.json.encode({"error": error})
