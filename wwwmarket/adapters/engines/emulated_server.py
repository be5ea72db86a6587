"""The HTTP face of an emulated engine: vLLM's OpenAI-compatible server, as far as clients and monitors can tell.

It is named ``wwwmarket-emulated`` wherever a name shows: its text has no meaning, only its timing has.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from wwwmarket import __version__
from wwwmarket.adapters.engines import emulated_replies as replies
from wwwmarket.adapters.engines.emulated_driver import Driver, Generation
from wwwmarket.adapters.engines.emulated_replies import CompletionRequest, Reply, Speaker
from wwwmarket.adapters.engines.engine_listing import EMULATED
from wwwmarket.domain.errors import NotFound, Refusal, TooLarge
from wwwmarket.ports.engine import Path

REQUEST_BYTES_MAX: Final = 16 * 1024 * 1024
CREATED_S: Final = 1_700_000_000
"""``created`` of everything: the server has no use for the date."""
_json: Final = msgspec.json.Encoder().encode


class _Form:
    """How one reply is written: as chat or completion, its fixed parts encoded once."""

    def __init__(self, path: Path, model: str, reply: Reply, key: int) -> None:
        self._chat = path == "/v1/chat/completions"
        self._reply = reply
        name = f"chatcmpl-{key}" if self._chat else f"cmpl-{key}"
        self._common = {"id": name, "created": CREATED_S, "model": model}
        self._kind = "chat.completion" if self._chat else "text_completion"
        self._chunk_kind = "chat.completion.chunk" if self._chat else "text_completion"
        before, after = self._event([self._choice("\x00", None)]).split(b"\\u0000")
        self._before, self._after = before, after
        self._between = (after + before).decode()

    def usage(self) -> dict[str, Any]:
        sent, made = self._reply.input_tokens, self._reply.output_tokens
        return {"prompt_tokens": sent, "completion_tokens": made, "total_tokens": sent + made}

    def opening(self) -> bytes:
        """Chat streams open with the role, before any text."""
        if not self._chat:
            return b""
        delta = {"role": "assistant", "content": ""}
        return self._event([{"index": 0, "delta": delta, "finish_reason": None}])

    def tokens(self, first: int, count: int) -> bytes:
        """Events of ``count`` tokens, one each, from the reply's ``first`` on."""
        words = replies.words_from(self._reply.first_word + first, count)
        if not first:
            words[0] = words[0].lstrip()
        return self._before + self._between.join(words).encode() + self._after

    def closing(self, *, include_usage: bool) -> bytes:
        end = self._event([self._choice("", self._reply.finish_reason)])
        usage = self._event([], usage=self.usage()) if include_usage else b""
        return end + usage + b"data: [DONE]\n\n"

    def whole(self) -> bytes:
        text = "".join(replies.words_from(self._reply.first_word, self._reply.output_tokens)).lstrip()
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": self._reply.finish_reason}
        choice |= {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        return _json({**self._common, "object": self._kind, "choices": [choice], "usage": self.usage()})

    def _choice(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        said: dict[str, Any] = {"delta": {"content": text}} if self._chat else {"text": text}
        return {"index": 0, **said, "finish_reason": finish_reason}

    def _event(self, choices: list[dict[str, Any]], **more: object) -> bytes:
        return b"data: " + _json({**self._common, "object": self._chunk_kind, "choices": choices, **more}) + b"\n\n"


class _Answer(Response):
    """Sends one generation, and aborts it when the client goes away."""

    def __init__(self, driver: Driver, generation: Generation, form: _Form, request: CompletionRequest) -> None:
        super().__init__(media_type="text/event-stream" if request.stream else "application/json")
        del self.headers["content-length"]
        self._driver = driver
        self._generation = generation
        self._form = form
        self._stream = bool(request.stream)
        self._usage = request.stream_options is not None and bool(request.stream_options.include_usage)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        watch = asyncio.create_task(self._watch(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            if self._stream:
                await self._send_stream(send)
            else:
                await self._send_whole(send)
        finally:
            self._driver.abort(self._generation)
            watch.cancel()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._driver.abort(self._generation)

    async def _send_stream(self, send: Send) -> None:
        generation, form = self._generation, self._form
        lead, sent = form.opening(), 0
        while generation.remaining:
            count = await generation.take()
            if not count:
                return
            body = lead + form.tokens(sent, count)
            lead, sent = b"", sent + count
            if not generation.remaining:
                body += form.closing(include_usage=self._usage)
            await send({"type": "http.response.body", "body": body, "more_body": bool(generation.remaining)})

    async def _send_whole(self, send: Send) -> None:
        while self._generation.remaining:
            if not await self._generation.take():
                return
        await send({"type": "http.response.body", "body": self._form.whole(), "more_body": False})


class _Server:
    """The routes, over one driver and one speaker."""

    def __init__(self, driver: Driver, speaker: Speaker, gpu: str) -> None:
        self._driver = driver
        self._speaker = speaker
        self._gpu = gpu

    async def complete(self, request: Request) -> Response:
        path: Path = "/v1/chat/completions" if request.url.path == "/v1/chat/completions" else "/v1/completions"
        try:
            wanted = replies.decode(await _body(request))
            reply = replies.plan(path, wanted, self._speaker)
        except Refusal as refusal:
            return _error(refusal)
        generation = self._driver.start(reply.input_tokens, reply.output_tokens)
        return _Answer(self._driver, generation, _Form(path, self._speaker.model, reply, generation.key), wanted)

    async def tokenize(self, request: Request) -> Response:
        try:
            wanted = replies.decode(await _body(request))
            count = replies.prompt_tokens("/v1/chat/completions" if wanted.messages else "/v1/completions", wanted)
        except Refusal as refusal:
            return _error(refusal)
        answer = {"count": count, "max_model_len": self._speaker.context_tokens, "tokens": list(range(count))}
        return _respond(answer)

    async def models(self, _: Request) -> Response:
        model = {"id": self._speaker.model, "object": "model", "created": CREATED_S, "owned_by": EMULATED}
        return _respond({"object": "list", "data": [{**model, "max_model_len": self._speaker.context_tokens}]})

    async def version(self, _: Request) -> Response:
        return _respond({"version": __version__, "gpu": self._gpu, "sequences_max": self._driver.sequences_max})

    async def health(self, _: Request) -> Response:
        return Response()

    async def metrics(self, _: Request) -> Response:
        driver, label = self._driver, f'{{engine="0",model_name="{self._speaker.model}"}}'
        samples = (
            ("num_requests_running", "gauge", driver.running),
            ("num_requests_waiting", "gauge", driver.waiting),
            ("kv_cache_usage_perc", "gauge", driver.kv_usage),
            ("prompt_tokens_total", "counter", driver.input_tokens),
            ("generation_tokens_total", "counter", driver.output_tokens),
        )
        lines = (f"# TYPE vllm:{name} {kind}\nvllm:{name}{label} {float(value)}\n" for name, kind, value in samples)
        return Response("".join(lines), media_type="text/plain; version=0.0.4")


def application(driver: Driver, speaker: Speaker, gpu: str, on_ready: Callable[[], None]) -> Starlette:
    """The server. ``on_ready`` is called once the driver runs."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        loop = asyncio.create_task(driver.run())
        on_ready()
        yield
        loop.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await loop

    server = _Server(driver, speaker, gpu)
    posts = {
        "/v1/chat/completions": server.complete,
        "/v1/completions": server.complete,
        "/tokenize": server.tokenize,
    }
    gets = {
        "/v1/models": server.models,
        "/version": server.version,
        "/health": server.health,
        "/metrics": server.metrics,
    }
    routes = [Route(path, endpoint, methods=["POST"]) for path, endpoint in posts.items()]
    routes += [Route(path, endpoint, methods=["GET"]) for path, endpoint in gets.items()]
    return Starlette(routes=routes, lifespan=lifespan)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > REQUEST_BYTES_MAX:
            raise TooLarge(f"a request has at most {REQUEST_BYTES_MAX} bytes")
    return bytes(body)


def _respond(answer: object, status: int = 200) -> Response:
    return Response(_json(answer), status_code=status, media_type="application/json")


def _error(refusal: Refusal) -> Response:
    """OpenAI's form of an error, with vLLM's types."""
    status, kind = (404, "NotFoundError") if isinstance(refusal, NotFound) else (400, "BadRequestError")
    error = {"message": refusal.message, "type": kind, "param": refusal.param, "code": status}
    return _respond({"error": error}, status)
