"""The client that waits and the client that is awaited, over the same conversations."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx
import msgspec

from wwwmarket.client.buying import Bought, Buyer, Placed, Proof, Terms, order_of
from wwwmarket.client.calls import ANSWER_BYTES_MAX, Call, Conversation, Refused, Reply, Wait, ask, refusal_of
from wwwmarket.client.hearing import Ear
from wwwmarket.client.request import Wanted, read_wanted
from wwwmarket.crypto.signing import KeyPair
from wwwmarket.domain.errors import Refusal, TooLarge, Unavailable
from wwwmarket.domain.identity import AccountId, EntryId
from wwwmarket.domain.quantity import MicroCredits
from wwwmarket.domain.records import Inclusion, Signed, Transfer
from wwwmarket.ledger.note import VerifierKey, parse_verifier_key
from wwwmarket.market.recount import Splitter
from wwwmarket.node.service import AccountView, Explanation, ReceiptView

T = TypeVar("T")

READ_TIMEOUT_S: Final = 620.0
"""A little over the longest execution that a market allows."""
CONNECT_TIMEOUT_S: Final = 10.0
_TIMEOUT: Final = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
_NO_TERMS: Final = Terms()
_SALT_BYTES: Final = 32
_JSON: Final = {"content-type": "application/json"}


class _Common:
    """What both clients are made of."""

    def __init__(
        self,
        gateway: str,
        key: KeyPair,
        *,
        log: str | None = None,
        tokenizers: Mapping[str, Splitter] | None = None,
        terms: Terms = _NO_TERMS,
    ) -> None:
        self.base: Final = gateway.rstrip("/").removesuffix("/v1")
        self.terms: Final = terms
        self._buyer = Buyer(key, None if log is None else parse_verifier_key(log), dict(tokenizers or {}))

    @property
    def log(self) -> VerifierKey | None:
        """The log that this client trusts; None until it knows one."""
        return self._buyer.log

    def _now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def _wanted(self, path: str, request: bytes | Mapping[str, Any]) -> Wanted:
        return read_wanted(path, request if isinstance(request, bytes) else msgspec.json.encode(request))

    def _placed(  # noqa: PLR0913, PLR0917 - the parts of one value
        self, wanted: Wanted, proposal: Any, salt: bytes, name: EntryId, leaf: bytes, promise: Any
    ) -> Placed:
        return Placed(wanted=wanted, bid=proposal.bid, salt=salt, award=proposal, id=name, leaf=leaf, promise=promise)


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def _unreachable(base: str, error: httpx.HTTPError) -> Unavailable:
    reason = str(error) or type(error).__name__
    return Unavailable(f"no gateway answers at {base}: {reason}", retry_after_ms=1_000)


class _Size:
    """Raises TooLarge when an answer is over its limit."""

    def __init__(self) -> None:
        self._data = bytearray()

    def add(self, chunk: bytes) -> None:
        self._data += chunk
        if len(self._data) > ANSWER_BYTES_MAX:
            raise TooLarge(f"the answer is over the limit of {ANSWER_BYTES_MAX} bytes")

    def body(self) -> bytes:
        return bytes(self._data)


class Client(_Common):
    """Buys with its own key, from any thread.

    Args:
        gateway: base address of any node's gateway, with or without ``/v1``.
        key: what the account is owned by.
        log: the log's verifier key, as ``wwwmarket node run`` shows it; None believes the gateway, once.
        tokenizers: how to count a model's tokens; without one, bytes bound them.
        terms: of requests that say nothing else.
        transport: httpx's, for tests and proxies.
    """

    def __init__(
        self, gateway: str, key: KeyPair, *, transport: httpx.BaseTransport | None = None, **more: Any
    ) -> None:
        super().__init__(gateway, key, **more)
        self._http = httpx.Client(timeout=_TIMEOUT, trust_env=False, transport=transport)
        self._chain = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def buy(self, path: str, request: bytes | Mapping[str, Any], terms: Terms | None = None) -> "Purchase":
        """One request, answered whole and settled: ``answer`` and ``bought`` of what comes back.

        Raises:
            Refusal: nobody serves it on these terms, or a check failed; nothing is paid then.
        """
        with self.purchase(path, request, terms) as purchase:
            purchase.read()
        return purchase

    def purchase(self, path: str, request: bytes | Mapping[str, Any], terms: Terms | None = None) -> "Purchase":
        """The same, as it arrives: iterate over it. Leaving its block early cancels, and pays what was delivered."""
        wanted, salt = self._wanted(path, request), os.urandom(_SALT_BYTES)
        self._run(self._buyer.connect())
        proposal = self._run(self._buyer.propose(wanted, terms or self.terms, salt, self._now_ms()))
        with self._chain:
            written = self._run(self._buyer.write(proposal))
        return Purchase(self, self._placed(wanted, proposal, salt, *written))

    def transfer(self, to: AccountId, amount_micro: MicroCredits) -> Signed[Inclusion]:
        """Move available credits to another account, which exists by being paid."""
        self._run(self._buyer.connect())
        with self._chain:
            return self._run(self._buyer.write(Transfer(to=to, amount_micro=amount_micro)))[2]

    def account(self) -> AccountView:
        return self._run(self._buyer.account())

    def explain(self, award: EntryId) -> Explanation:
        """Every ask, and why it won or lost."""
        return self._get(f"/v1/awards/{award}", Explanation)

    def receipt(self, award: EntryId) -> ReceiptView:
        return self._get(f"/v1/receipts/{award}", ReceiptView)

    def prove(self, index: int) -> Proof:
        """That an entry stands in the log: see ``buying.Buyer.prove``. Of a purchase, ``settlement.body.index``."""
        return self._run(self._buyer.prove(index))

    def _get(self, path: str, shape: type[T]) -> T:
        return self._run(ask(Call(method="GET", path=path), shape))

    def _run(self, conversation: Conversation[T]) -> T:
        try:
            said = next(conversation)
            while True:
                if isinstance(said, Wait):
                    time.sleep(said.seconds)
                    said = conversation.send(None)
                else:
                    said = conversation.send(self._send(said))
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    def _send(self, call: Call) -> Reply:
        size = _Size()
        try:
            with self._http.stream(call.method, self.base + call.path, content=call.body, headers=_JSON) as response:
                for chunk in response.iter_bytes():
                    size.add(chunk)
        except httpx.HTTPError as error:
            raise _unreachable(self.base, error) from None
        return Reply(status=response.status_code, body=size.body())

    def _open(self, call: Call) -> httpx.Response:
        sent = self._http.build_request(call.method, self.base + call.path, content=call.body, headers=_JSON)
        try:
            response = self._http.send(sent, stream=True)
            if not response.is_success:
                raise _refused(response.status_code, response.read())
        except httpx.HTTPError as error:
            raise _unreachable(self.base, error) from None
        return response


class Purchase:
    """An answer as it arrives. ``bought`` is there once it is over."""

    def __init__(self, client: Client, placed: Placed) -> None:
        self.placed: Final = placed
        self.answer = b""
        self.bought: Bought | None = None
        self._client = client
        self._ear = Ear(stream=placed.wanted.stream, begun_ms=_monotonic_ms())
        self._response = client._open(order_of(placed))  # noqa: SLF001 - two halves of one thing
        self.content_type: Final = self._response.headers.get("content-type", "application/json")
        self._over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __iter__(self) -> Iterator[bytes]:
        """Exact bytes: of a stream whole events. Raises Unavailable when the answer breaks off."""
        try:
            for chunk in self._response.iter_raw():
                whole = self._ear.hear(chunk, _monotonic_ms())
                if whole:
                    yield whole
        except httpx.HTTPError as error:
            self.close()
            raise _unreachable(self._client.base, error) from None
        self._ear.check()
        self.close()

    def read(self) -> bytes:
        """All of it."""
        self.answer = b"".join(self)
        return self.answer

    def close(self) -> None:
        """Cancel what has not arrived, and settle what has. Once."""
        if self._over:
            return
        self._over = True
        self._response.close()
        client, buyer = self._client, self._client._buyer  # noqa: SLF001
        self.bought = client._run(  # noqa: SLF001
            buyer.finish(self.placed, self._ear.heard(_monotonic_ms()), self._ear.text)
        )
        with client._chain:  # noqa: SLF001
            self.bought = client._run(buyer.settle(self.bought))  # noqa: SLF001


class AsyncClient(_Common):
    """As ``Client``, awaited."""

    def __init__(
        self, gateway: str, key: KeyPair, *, transport: httpx.AsyncBaseTransport | None = None, **more: Any
    ) -> None:
        super().__init__(gateway, key, **more)
        self._http = httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False, transport=transport)
        self._chain = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def buy(self, path: str, request: bytes | Mapping[str, Any], terms: Terms | None = None) -> "AsyncPurchase":
        """See ``Client.buy``."""
        async with await self.purchase(path, request, terms) as purchase:
            await purchase.read()
        return purchase

    async def purchase(
        self, path: str, request: bytes | Mapping[str, Any], terms: Terms | None = None
    ) -> "AsyncPurchase":
        """See ``Client.purchase``."""
        wanted, salt = self._wanted(path, request), os.urandom(_SALT_BYTES)
        await self._run(self._buyer.connect())
        proposal = await self._run(self._buyer.propose(wanted, terms or self.terms, salt, self._now_ms()))
        async with self._chain:
            written = await self._run(self._buyer.write(proposal))
        purchase = AsyncPurchase(self, self._placed(wanted, proposal, salt, *written))
        await purchase.open()
        return purchase

    async def transfer(self, to: AccountId, amount_micro: MicroCredits) -> Signed[Inclusion]:
        """See ``Client.transfer``."""
        await self._run(self._buyer.connect())
        async with self._chain:
            return (await self._run(self._buyer.write(Transfer(to=to, amount_micro=amount_micro))))[2]

    async def account(self) -> AccountView:
        return await self._run(self._buyer.account())

    async def explain(self, award: EntryId) -> Explanation:
        """See ``Client.explain``."""
        return await self._get(f"/v1/awards/{award}", Explanation)

    async def receipt(self, award: EntryId) -> ReceiptView:
        return await self._get(f"/v1/receipts/{award}", ReceiptView)

    async def prove(self, index: int) -> Proof:
        """See ``Client.prove``."""
        return await self._run(self._buyer.prove(index))

    async def _get(self, path: str, shape: type[T]) -> T:
        return await self._run(ask(Call(method="GET", path=path), shape))

    async def _run(self, conversation: Conversation[T]) -> T:
        try:
            said = next(conversation)
            while True:
                if isinstance(said, Wait):
                    await asyncio.sleep(said.seconds)
                    said = conversation.send(None)
                else:
                    said = conversation.send(await self._send(said))
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]

    async def _send(self, call: Call) -> Reply:
        size = _Size()
        url = self.base + call.path
        try:
            async with self._http.stream(call.method, url, content=call.body, headers=_JSON) as response:
                async for chunk in response.aiter_bytes():
                    size.add(chunk)
        except httpx.HTTPError as error:
            raise _unreachable(self.base, error) from None
        return Reply(status=response.status_code, body=size.body())

    async def _open(self, call: Call) -> httpx.Response:
        sent = self._http.build_request(call.method, self.base + call.path, content=call.body, headers=_JSON)
        try:
            response = await self._http.send(sent, stream=True)
            if not response.is_success:
                raise _refused(response.status_code, await response.aread())
        except httpx.HTTPError as error:
            raise _unreachable(self.base, error) from None
        return response


class AsyncPurchase:
    """As ``Purchase``, awaited."""

    def __init__(self, client: AsyncClient, placed: Placed) -> None:
        self.placed: Final = placed
        self.answer = b""
        self.bought: Bought | None = None
        self.content_type = "application/json"
        self._client = client
        self._ear = Ear(stream=placed.wanted.stream, begun_ms=_monotonic_ms())
        self._response: httpx.Response | None = None
        self._over = False

    async def open(self) -> None:
        """Hand the award over; ``AsyncClient.purchase`` has done so."""
        self._response = await self._client._open(order_of(self.placed))  # noqa: SLF001 - two halves of one thing
        self.content_type = self._response.headers.get("content-type", self.content_type)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """See ``Purchase``."""
        assert self._response is not None, "open it first"
        try:
            async for chunk in self._response.aiter_raw():
                whole = self._ear.hear(chunk, _monotonic_ms())
                if whole:
                    yield whole
        except httpx.HTTPError as error:
            await self.close()
            raise _unreachable(self._client.base, error) from None
        self._ear.check()
        await self.close()

    async def read(self) -> bytes:
        """All of it."""
        self.answer = b"".join([piece async for piece in self])
        return self.answer

    async def close(self) -> None:
        """See ``Purchase.close``."""
        if self._over or self._response is None:
            return
        self._over = True
        await self._response.aclose()
        client, buyer = self._client, self._client._buyer  # noqa: SLF001
        self.bought = await client._run(  # noqa: SLF001
            buyer.finish(self.placed, self._ear.heard(_monotonic_ms()), self._ear.text)
        )
        async with client._chain:  # noqa: SLF001
            self.bought = await client._run(buyer.settle(self.bought))  # noqa: SLF001


def _refused(status: int, body: bytes) -> Refusal:
    """What came instead of an answer; an engine's own refusal keeps its bytes."""
    refusal = refusal_of(Reply(status=status, body=body))
    if status in {400, 422} and not isinstance(refusal, Refused):
        return Refused(status, body, refusal.message, refusal.reason)
    return refusal
