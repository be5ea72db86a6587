"""One award at its winner: the sealed order there, the sealed answer back, as events for the buyer's machine."""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeAlias

from wwwmarket.config import NodeConfig
from wwwmarket.crypto import canonical
from wwwmarket.crypto.sealing import Channel, SealingPair
from wwwmarket.domain.errors import Malformed, Refusal, TooLarge, Unavailable
from wwwmarket.domain.identity import EntryId, NodeId
from wwwmarket.domain.records import Inclusion, Signed, TabAward
from wwwmarket.domain.shape import Value
from wwwmarket.market import award
from wwwmarket.market.award import Contender
from wwwmarket.node import loopback, messages
from wwwmarket.node.selling import Selling
from wwwmarket.node.serving import ATTESTED, PIECE, START, TOKENS
from wwwmarket.node.speaking import AccountOf, heard
from wwwmarket.ports.clock import Clock, Entropy
from wwwmarket.ports.tracing import TraceParent
from wwwmarket.ports.transport import Stream, Transport

_Opening: TypeAlias = messages.Execute | messages.ExecuteUnderTab

_CLOSE_TIMEOUT_MS: Final = 1_000
_CONTENT_TYPE: Final = re.compile(rb"[a-z]+/[\x21-\x7e][\x20-\x7e]{0,126}")
"""Printable ASCII alone: neither a line's end nor a byte that a header cannot carry."""


class Goods(Value):
    """What was asked for, as exact bytes, and the salt of its digest."""

    path: str
    request: bytes
    salt: bytes
    traceparent: TraceParent | None = None


class Handover(Value):
    """``leaf`` is the award's entry; ``under_tab`` the award itself, where it has none."""

    award: EntryId
    leaf: bytes
    contender: Contender
    goods: Goods
    promise: Signed[Inclusion] | None
    under_tab: Signed[TabAward] | None = None


class Surroundings(Protocol):
    """What an attempt needs of its node."""

    node: NodeId
    transport: Transport
    selling: Selling | None
    clock: Clock
    entropy: Entropy
    config: NodeConfig

    @property
    def execute_self(self) -> Callable[[Stream, _Opening], Awaitable[None]]:
        """Serve an award that this node gave to itself."""
        ...

    @property
    def account_of(self) -> AccountOf: ...


class Attempt:
    """Runs from its making until ``close`` or ``abandon``. Puts events; waits while ``reading`` is clear."""

    def __init__(
        self,
        surroundings: Surroundings,
        handover: Handover,
        events: "asyncio.Queue[award.Event]",
        reading: asyncio.Event,
    ) -> None:
        self._around = surroundings
        self._handover = handover
        self._events = events
        self._reading = reading
        self._frames: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._stream: Stream | None = None
        self._selling: asyncio.Task[None] | None = None
        self._bytes = 0
        self._task = asyncio.create_task(self._run())

    def tell(self, message: messages.GatewayFrame) -> None:
        self._frames.put_nowait(canonical.encode(message))

    async def close(self) -> None:
        """Send what is left to be said, then end."""
        self._frames.put_nowait(None)
        await asyncio.wait((self._task,), timeout=_CLOSE_TIMEOUT_MS / 1_000)
        await self.abandon()

    async def abandon(self) -> None:
        """Drop the stream; what was finished on it still arrives."""
        self._task.cancel()
        await asyncio.wait((self._task,))
        if self._stream is not None:
            await self._stream.abort()

    async def _run(self) -> None:
        try:
            channel, opening = self._seal()
            self._stream = await self._open(opening)
            speaker = asyncio.create_task(self._speak(self._stream, channel))
            try:
                await self._listen(self._stream, channel)
                await speaker
            finally:
                speaker.cancel()
                with contextlib.suppress(asyncio.CancelledError, Refusal):
                    await speaker
        except Refusal as refusal:
            self._events.put_nowait(
                award.ExecutionBroken(
                    at_ms=self._around.clock.now_ms(), award=self._handover.award, reason=refusal.message
                )
            )

    def _seal(self) -> tuple[Channel, _Opening]:
        goods = self._handover.goods
        ours = SealingPair(self._around.entropy.bytes(32))
        channel = ours.channel(self._handover.contender.offer.sealing_key, "gateway")
        order = messages.Order(
            path=goods.path,
            salt=goods.salt.hex(),
            request_bytes=len(goods.request),
            traceparent=goods.traceparent,
        )
        first = canonical.encode(order) + b"\n" + goods.request[: messages.FIRST_PART_BYTES_MAX]
        under = self._handover.under_tab
        if under is not None:
            return channel, messages.ExecuteUnderTab(award=under, gateway_key=ours.public, sealed=channel.seal(first))
        opening = messages.Execute(
            leaf=self._handover.leaf.decode("ascii"),
            gateway_key=ours.public,
            sealed=channel.seal(first),
            promise=self._handover.promise,
        )
        return channel, opening

    async def _open(self, opening: _Opening) -> Stream:
        address = self._handover.contender.offer.address
        if address.node != self._around.node:
            timeout_ms = self._around.config.submit_timeout_ms
            return await self._around.transport.open_stream(address, canonical.encode(opening), timeout_ms=timeout_ms)
        if self._around.selling is None:
            raise Unavailable("this node sells nothing now", retry_after_ms=1_000)
        near, far = loopback.pair(self._around.node)
        self._selling = asyncio.create_task(_sell(self._around, far, opening))
        return near

    async def _speak(self, stream: Stream, channel: Channel) -> None:
        request, most = self._handover.goods.request, self._around.config.execution.piece_bytes_max
        for start in range(messages.FIRST_PART_BYTES_MAX, len(request), most):
            await stream.send(channel.seal(request[start : start + most]))
        while (frame := await self._frames.get()) is not None:
            await stream.send(frame)
        await stream.finish()

    async def _listen(self, stream: Stream, channel: Channel) -> None:
        """Until the attestation, which is the last frame."""
        silence_s = self._around.config.execution.silence_ms / 1_000
        last = False
        while not last:
            await self._reading.wait()
            try:
                async with asyncio.timeout(silence_s):
                    frame = await stream.receive()
            except TimeoutError:
                raise Unavailable("the provider fell silent", retry_after_ms=1_000) from None
            if frame is None:
                raise Unavailable("the provider ended without an attestation", retry_after_ms=1_000)
            plain, last = channel.open(frame)
            self._heard(plain[:1], plain[1:], last=last)

    def _heard(self, kind: bytes, data: bytes, *, last: bool) -> None:
        now_ms, name = self._around.clock.now_ms(), self._handover.award
        self._bytes += len(kind) + len(data)
        if self._bytes > self._around.config.execution.response_bytes_max:
            raise TooLarge("the answer is larger than this node carries")
        if last != (kind == ATTESTED):
            raise Malformed("an answer ends with its attestation, and only then")
        if kind == START:
            event: award.Event = award.AnswerStarted(at_ms=now_ms, award=name, content_type=_content_type(data))
        elif kind in {TOKENS, PIECE}:
            event = award.PieceArrived(at_ms=now_ms, award=name, data=data, tokens=kind == TOKENS)
        elif kind == ATTESTED:
            event = _attested(canonical.decode(data, messages.AttestationGiven), name, now_ms, self._around.account_of)
        else:
            raise Malformed("the provider sent a frame of no known kind")
        self._events.put_nowait(event)


def _content_type(data: bytes) -> str:
    """A provider's word that becomes a header. Raises Malformed."""
    if not _CONTENT_TYPE.fullmatch(data):
        raise Malformed("the provider began its answer with what is no content type")
    return data.decode("ascii")


def _attested(given: messages.AttestationGiven, name: EntryId, now_ms: int, account_of: AccountOf) -> award.Attested:
    engine = None if given.engine_status is None else (given.engine_status, given.engine_body.encode())
    attestation = heard(given.attestation, account_of)
    return award.Attested(at_ms=now_ms, award=name, attestation=attestation, reason=given.reason, engine=engine)


async def _sell(around: Surroundings, stream: Stream, opening: _Opening) -> None:
    try:
        await around.execute_self(stream, opening)
    except (Refusal, TimeoutError):
        await stream.abort()
