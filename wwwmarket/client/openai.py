"""OpenAI's own client over a market client: a transport that buys what is sold, and passes on the rest."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

import httpx2
import msgspec
from msgspec import Raw
from openai import AsyncOpenAI, OpenAI

from wwwmarket.client.buying import Bought, Terms
from wwwmarket.client.calls import problem_of
from wwwmarket.client.clients import READ_TIMEOUT_S, AsyncClient, AsyncPurchase, Client, Purchase
from wwwmarket.client.hearing import without_usage
from wwwmarket.domain.errors import Malformed, Refusal
from wwwmarket.domain.quantity import Slo
from wwwmarket.ports.engine import PATHS

_OBJECT: Final = msgspec.json.Decoder(dict[str, Raw])
_MICRO: Final = 1_000_000

OnBought = Callable[[Bought], None]


_KEY: Final = "signed-by-its-own-key"
"""OpenAI's client insists on one; no gateway reads it."""


def openai_over(client: Client, *, on_bought: OnBought | None = None, **options: Any) -> OpenAI:
    """OpenAI's client, every request of which ``client`` buys; ``on_bought`` hears what came of each.

    ``options`` are OpenAI's own. Its retries buy anew: what failed has cost nothing.
    """
    http = httpx2.Client(transport=MarketTransport(client, on_bought), timeout=READ_TIMEOUT_S)
    return OpenAI(base_url=f"{client.base}/v1", api_key=_KEY, http_client=http, **options)


def async_openai_over(client: AsyncClient, *, on_bought: OnBought | None = None, **options: Any) -> AsyncOpenAI:
    """As ``openai_over``, awaited."""
    http = httpx2.AsyncClient(transport=AsyncMarketTransport(client, on_bought), timeout=READ_TIMEOUT_S)
    return AsyncOpenAI(base_url=f"{client.base}/v1", api_key=_KEY, http_client=http, **options)


class MarketTransport(httpx2.BaseTransport):
    def __init__(self, client: Client, on_bought: OnBought | None) -> None:
        self._client = client
        self._on_bought = on_bought
        self._plain = httpx2.HTTPTransport()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        path = _sold(request)
        if path is None:
            return self._plain.handle_request(request)
        try:
            terms = terms_of(request.headers, self._client.terms)
            purchase = self._client.purchase(path, request.read(), terms)
            if purchase.placed.wanted.stream:
                return _answer(purchase.content_type, _Stream(purchase, self._on_bought))
            with purchase:
                purchase.read()
        except Refusal as refusal:
            return _refusal(refusal)
        assert purchase.bought is not None, "what was read is over"
        if self._on_bought is not None:
            self._on_bought(purchase.bought)
        return httpx2.Response(200, content=_with_sale(purchase.answer, purchase.bought), headers=_JSON)

    def close(self) -> None:
        self._plain.close()


class _Stream(httpx2.SyncByteStream):
    def __init__(self, purchase: Purchase, on_bought: OnBought | None) -> None:
        self._purchase = purchase
        self._on_bought = on_bought

    def __iter__(self) -> Iterator[bytes]:
        asked = self._purchase.placed.wanted.include_usage
        try:
            for events in self._purchase:
                yield events if asked else without_usage(events)
        except Refusal as refusal:
            yield b"data: " + problem_of(refusal)[1] + b"\n\n"

    def close(self) -> None:
        """A client that stops reading has cancelled."""
        self._purchase.close()
        if self._on_bought is not None and self._purchase.bought is not None:
            self._on_bought(self._purchase.bought)


class AsyncMarketTransport(httpx2.AsyncBaseTransport):
    def __init__(self, client: AsyncClient, on_bought: OnBought | None) -> None:
        self._client = client
        self._on_bought = on_bought
        self._plain = httpx2.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        path = _sold(request)
        if path is None:
            return await self._plain.handle_async_request(request)
        try:
            terms = terms_of(request.headers, self._client.terms)
            purchase = await self._client.purchase(path, await request.aread(), terms)
            if purchase.placed.wanted.stream:
                return _answer(purchase.content_type, _AsyncStream(purchase, self._on_bought))
            async with purchase:
                await purchase.read()
        except Refusal as refusal:
            return _refusal(refusal)
        assert purchase.bought is not None, "what was read is over"
        if self._on_bought is not None:
            self._on_bought(purchase.bought)
        return httpx2.Response(200, content=_with_sale(purchase.answer, purchase.bought), headers=_JSON)

    async def aclose(self) -> None:
        await self._plain.aclose()


class _AsyncStream(httpx2.AsyncByteStream):
    def __init__(self, purchase: AsyncPurchase, on_bought: OnBought | None) -> None:
        self._purchase = purchase
        self._on_bought = on_bought

    async def __aiter__(self) -> AsyncIterator[bytes]:
        asked = self._purchase.placed.wanted.include_usage
        try:
            async for events in self._purchase:
                yield events if asked else without_usage(events)
        except Refusal as refusal:
            yield b"data: " + problem_of(refusal)[1] + b"\n\n"

    async def aclose(self) -> None:
        await self._purchase.close()
        if self._on_bought is not None and self._purchase.bought is not None:
            self._on_bought(self._purchase.bought)


_JSON: Final = {"content-type": "application/json"}


def _sold(request: httpx2.Request) -> str | None:
    """The path of what a market sells; None of anything else."""
    if request.method != "POST":
        return None
    return next((path for path in PATHS if request.url.path.endswith(path)), None)


def terms_of(headers: httpx2.Headers, usual: Terms) -> Terms:
    """The gateway's own headers: ``x-slo-ttft-ms``, ``x-slo-tpot-ms``, ``x-wwwmarket-max-price`` in credits.

    Raises:
        Malformed: one is no number.
    """
    price, value = headers.get("x-wwwmarket-max-price"), headers.get("x-wwwmarket-time-value")
    try:
        return Terms(
            max_price_micro=usual.max_price_micro if price is None else round(float(price) * _MICRO),
            time_value_micro_per_s=usual.time_value_micro_per_s if value is None else round(float(value) * _MICRO),
            slo=Slo(
                ttft_ms=int(headers.get("x-slo-ttft-ms", usual.slo.ttft_ms)),
                tpot_ms=int(headers.get("x-slo-tpot-ms", usual.slo.tpot_ms)),
            ),
            precisions=usual.precisions,
        )
    except (ValueError, OverflowError):
        raise Malformed("the x-slo- and x-wwwmarket- headers are numbers", param="headers") from None


def _answer(content_type: str, stream: httpx2.SyncByteStream | httpx2.AsyncByteStream) -> httpx2.Response:
    return httpx2.Response(200, headers={"content-type": content_type}, stream=stream)


def _refusal(refusal: Refusal) -> httpx2.Response:
    status, body = problem_of(refusal)
    return httpx2.Response(status, content=body, headers=_JSON)


def _with_sale(answer: bytes, bought: Bought) -> bytes:
    """The engine's JSON with the field ``wwwmarket``, as a gateway adds it."""
    sale = {"award": bought.award, "provider": bought.provider, "cost_micro": bought.cost_micro}
    try:
        return msgspec.json.encode({**_OBJECT.decode(answer), "wwwmarket": sale})
    except (msgspec.DecodeError, UnicodeDecodeError):
        return answer
