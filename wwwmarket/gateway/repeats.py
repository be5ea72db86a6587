"""``Idempotency-Key``: a purchase that is asked for again under the same name is bought, and charged, once.

While the first is in flight, a repeat follows it from its beginning; afterwards the same answer is played again, as a
stream where it was one. What came to nothing is forgotten, so that it can be tried again. A named purchase goes on when
its client is gone: whoever names it means to come back for it.

It refuses to know HTTP: what it keeps are the events of a delivery.
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from hashlib import sha256
from typing import Final, NamedTuple

from fastapi import Request
from starlette.datastructures import Headers

from wwwmarket.domain.errors import Exhausted, Malformed, Reused, Stale
from wwwmarket.gateway.config import GatewayConfig
from wwwmarket.gateway.response import Delivery, closable
from wwwmarket.node.service import Delivered, DeliveryEvent
from wwwmarket.ports.engine import ResponsePiece

HEADER: Final = "idempotency-key"
TERMS: Final = (
    "x-slo-ttft-ms",
    "x-slo-tpot-ms",
    "x-wwwmarket-max-price",
    "x-wwwmarket-time-value",
)
"""The headers that say what is bought, besides the body."""

_NAME: Final = re.compile(r"[\x21-\x7e]{1,255}")


class Name(NamedTuple):
    """Names of one API key are no other's."""

    key_id: str
    text: str


def name_of(headers: Headers, key_id: str) -> Name | None:
    """Raises Malformed."""
    text = headers.get(HEADER)
    if text is None:
        return None
    if not _NAME.fullmatch(text):
        raise Malformed("an idempotency key is 1 to 255 visible ASCII characters, such as a UUID", param=HEADER)
    return Name(key_id, text)


def fingerprint_of(request: Request, body: bytes) -> bytes:
    """What must be the same in a repeat: path, body, and the headers that say what is bought."""
    terms = (f"{name}:{request.headers.get(name, '')}\n".encode() for name in TERMS)
    return sha256(b"".join([request.url.path.encode(), b"\n", *terms, body])).digest()


class _Recording:
    """One delivery as it happens; every reader begins at its beginning."""

    def __init__(self, fingerprint: bytes) -> None:
        self.fingerprint: Final = fingerprint
        self._events: list[DeliveryEvent] = []
        self._ended = False
        self._failure: BaseException | None = None
        self._more = asyncio.Event()

    async def record(self, events: AsyncIterator[DeliveryEvent], bytes_max: int) -> Delivered | None:
        """Take all of it; the last event where it was delivered whole."""
        held = Delivery(bytes_max)
        last: DeliveryEvent | None = None
        try:
            async with aclosing(closable(events)) as source:
                async for last in source:
                    if isinstance(last, ResponsePiece):
                        held.add(last.data)
                    self._events.append(last)
                    self._wake()
        except BaseException as failure:
            self._failure = failure
            if not isinstance(failure, Exception):
                raise
        finally:
            self._ended = True
            self._wake()
        whole = self._failure is None and isinstance(last, Delivered) and last.outcome == "completed"
        return last if whole and isinstance(last, Delivered) else None

    def kept(self) -> tuple[DeliveryEvent, ...]:
        """The same delivery with all pieces of its answer as one."""
        pieces = [event for event in self._events if isinstance(event, ResponsePiece)]
        answer = ResponsePiece(data=b"".join(piece.data for piece in pieces), tokens=True)
        others = [event for event in self._events if not isinstance(event, ResponsePiece)]
        return (*others[:-1], answer, others[-1])

    async def follow(self) -> AsyncGenerator[DeliveryEvent, None]:
        at = 0
        while True:
            while at < len(self._events):
                yield self._events[at]
                at += 1
            if self._ended:
                break
            await self._more.wait()
        if isinstance(self._failure, Exception):
            raise self._failure
        assert self._failure is None, "a recording that was broken off has no readers"

    def _wake(self) -> None:
        self._more.set()
        self._more = asyncio.Event()


class _Kept(NamedTuple):
    """A finished delivery. ``events`` is None where its answer was too long to keep."""

    fingerprint: bytes
    until_s: float
    last: Delivered
    events: tuple[DeliveryEvent, ...] | None
    size: int


class Repeats:
    """The named purchases of all API keys: those in flight, and for some minutes those that were delivered."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._in_flight: dict[Name, _Recording] = {}
        self._kept: OrderedDict[Name, _Kept] = OrderedDict()
        self._kept_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def once(
        self, name: Name | None, fingerprint: bytes, buy: Callable[[], AsyncGenerator[DeliveryEvent]]
    ) -> AsyncGenerator[DeliveryEvent]:
        """``buy()``, or what an earlier one of the same name delivers; without a name always the former.

        Raises:
            Reused: the name stands for another request.
            Conflict: it was delivered and charged, and its answer was too long to keep.
            Exhausted: as many named purchases as there may be are in flight.
        """
        if name is None:
            return buy()
        self._forget_old()
        if (kept := self._kept.get(name)) is not None:
            _check_same(kept.fingerprint, fingerprint)
            return _replay(kept)
        recording = self._in_flight.get(name)
        if recording is None:
            recording = self._begin(name, fingerprint, buy)
        _check_same(recording.fingerprint, fingerprint)
        return recording.follow()

    def _begin(self, name: Name, fingerprint: bytes, buy: Callable[[], AsyncGenerator[DeliveryEvent]]) -> _Recording:
        if len(self._in_flight) >= self._config.in_flight_max:
            raise Exhausted("too many requests with an Idempotency-Key are in flight", retry_after_ms=1_000)
        recording = self._in_flight[name] = _Recording(fingerprint)
        task = asyncio.create_task(self._run(name, recording, buy()))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return recording

    async def _run(self, name: Name, recording: _Recording, events: AsyncIterator[DeliveryEvent]) -> None:
        try:
            last = await recording.record(events, self._config.response_bytes_max)
        finally:
            del self._in_flight[name]
        if last is not None:
            self._keep(name, recording, last)

    def _keep(self, name: Name, recording: _Recording, last: Delivered) -> None:
        events: tuple[DeliveryEvent, ...] | None = recording.kept()
        size = sum(len(event.data) for event in events or () if isinstance(event, ResponsePiece))
        if size > self._config.repeat_bytes_max:
            events, size = None, 0
        until_s = asyncio.get_running_loop().time() + self._config.repeat_kept_s
        self._kept[name] = _Kept(recording.fingerprint, until_s, last, events, size)
        self._kept_bytes += size
        self._forget_old()

    def _forget_old(self) -> None:
        now_s = asyncio.get_running_loop().time()
        while self._kept and (
            next(iter(self._kept.values())).until_s <= now_s
            or len(self._kept) > self._config.repeats_max
            or self._kept_bytes > self._config.repeats_bytes_max
        ):
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= oldest.size


def _check_same(known: bytes, fingerprint: bytes) -> None:
    if known != fingerprint:
        raise Reused(
            "this Idempotency-Key stands for another request of yours; send a new key, or exactly the same request",
            param=HEADER,
            reason="idempotency_key_reused",
        )


async def _replay(kept: _Kept) -> AsyncGenerator[DeliveryEvent]:
    if kept.events is None:
        raise Stale(
            f"this request was delivered and charged as award {kept.last.award}, but its answer was too long to keep; "
            "to buy another one, send a new Idempotency-Key",
            param=HEADER,
            reason="answer_not_kept",
        )
    for event in kept.events:
        yield event
