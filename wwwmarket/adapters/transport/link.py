"""One connection to one peer: its control stream, its pings, and the streams opened over it."""

import asyncio
from typing import Final

import iroh

from wwwmarket.adapters.transport.framing import (
    CONTROL_HEADER_BYTES,
    FrameReader,
    Kind,
    control_frame,
    open_control_frame,
)
from wwwmarket.adapters.transport.limits import RESTING_INTERVALS, RETIRED_INTERVALS, TransportLimits
from wwwmarket.adapters.transport.reception import Reception
from wwwmarket.adapters.transport.stream import READ_BYTES, RETRY_MS, IrohStream
from wwwmarket.domain.errors import Malformed, Unavailable
from wwwmarket.domain.identity import NodeId

_CLOSED: Final = 0
_RTT_WEIGHT: Final = 0.125
"""Of a new sample in the smoothed round trip (RFC 6298)."""


class Link:
    """Many requests at once over one stream: frames that wait together are written together, and read together.

    ``run`` is its life: when it returns, everything that was waiting on the link has been told.
    """

    def __init__(
        self,
        peer: NodeId,
        connection: iroh.Connection,
        control: iroh.BiStream,
        limits: TransportLimits,
        reception: Reception,
    ) -> None:
        self.peer = peer
        self.closed = False
        self.round_trip_ms: float | None = None
        self._connection = connection
        self._sending, self._receiving = control.send(), control.recv()
        self._limits, self._reception = limits, reception
        self._numbers = 0
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._answering = 0
        self._streams: set[IrohStream] = set()
        self._outbox: list[bytes] = []
        self._outbox_bytes = 0
        self._mail, self._room = asyncio.Event(), asyncio.Event()
        self._ping: tuple[int, float] | None = None
        self._heard = self._owed = False
        self._silent_intervals = self._idle_intervals = self._unmeasured_intervals = 0
        self._idle_intervals_max = -(-limits.idle_timeout_ms // limits.ping_interval_ms)
        connection.set_max_concurrent_bi_streams(limits.streams_per_peer_max + 1)
        connection.set_max_concurrent_uni_streams(0)
        self._send_ping()

    async def run(self) -> None:
        """Carry traffic until the peer is lost, breaks the rules, or this task is cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for part in (self._write(), self._listen(), self._accept_streams(), self._watch()):
                    group.create_task(part)
        except* (iroh.IrohError, Unavailable, Malformed):
            pass
        finally:
            self.closed = True
            self._connection.close(_CLOSED, b"")
            self._room.set()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(_gone())
            for stream in tuple(self._streams):
                await stream.release()

    def seen_at(self) -> str | None:
        """The peer's socket on the path in use."""
        paths = self._connection.paths()
        return next((path.remote_addr for path in paths if path.is_selected and path.is_ip), None)

    def retire(self) -> None:
        """A better connection to the same peer exists: close as soon as what runs over this one is done."""
        self._idle_intervals_max = RETIRED_INTERVALS

    async def request(self, message: bytes) -> bytes:
        """Raises Unavailable: too many in flight, the handler failed, or the peer is gone. The caller sets the time."""
        if len(self._waiting) >= self._limits.requests_per_peer_max:
            raise Unavailable(
                f"{len(self._waiting)} requests to this peer are in flight already", retry_after_ms=RETRY_MS
            )
        self._idle_intervals = 0
        number = self._next_number()
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self._owed = True
        try:
            await self._post(control_frame(number, Kind.REQUEST, message))
            return await answer
        finally:
            del self._waiting[number]
            if answer.done() and not answer.cancelled():
                answer.exception()

    async def open_stream(self, opening: bytes) -> IrohStream:
        """Raises Unavailable: too many open to this peer, or it is gone."""
        self._idle_intervals = 0
        self._forget_finished_streams()
        if self.closed or len(self._streams) >= self._limits.streams_per_peer_max:
            raise Unavailable("no further stream can be opened to this peer", retry_after_ms=RETRY_MS)
        try:
            pair = await self._connection.open_bi()
        except iroh.IrohError as error:
            raise _gone() from error
        stream = IrohStream(self.peer, pair, self._limits.frame_bytes_max)
        self._streams.add(stream)
        try:
            await stream.send(opening)
        except BaseException:
            await stream.abort()
            raise
        return stream

    def _next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    # Sending

    async def _post(self, frame: bytes) -> None:
        while self._outbox_bytes > self._limits.outbox_bytes_max and not self.closed:
            self._room.clear()
            await self._room.wait()
        if self.closed:
            raise _gone()
        self._post_now(frame)

    def _post_now(self, frame: bytes) -> None:
        self._outbox.append(frame)
        self._outbox_bytes += len(frame)
        self._mail.set()

    async def _write(self) -> None:
        while True:
            await self._mail.wait()
            self._mail.clear()
            batch = b"".join(self._outbox)
            self._outbox.clear()
            await self._sending.write_all(batch)
            self._outbox_bytes -= len(batch)
            self._room.set()

    # Receiving

    async def _listen(self) -> None:
        frames = FrameReader(self._limits.frame_bytes_max + CONTROL_HEADER_BYTES)
        while chunk := await self._receiving.read(READ_BYTES):
            self._heard, self._owed = True, False
            frames.feed(chunk)
            while (body := frames.next()) is not None:
                self._take(*open_control_frame(body))
        raise _gone()

    def _take(self, number: int, kind: Kind, payload: bytes) -> None:
        match kind:
            case Kind.REQUEST:
                self._take_request(number, payload)
            case Kind.ANSWER | Kind.FAILED:
                self._take_answer(number, payload if kind is Kind.ANSWER else None)
            case Kind.PING:
                self._reply(control_frame(number, Kind.PONG))
            case Kind.PONG:
                self._take_pong(number)

    def _take_request(self, number: int, message: bytes) -> None:
        self._idle_intervals = 0
        if self._reception.admit_request(self.peer):
            self._answering += 1
            self._reception.spawn(self._answer(number, message))
        else:
            self._reply(control_frame(number, Kind.FAILED))

    async def _answer(self, number: int, message: bytes) -> None:
        try:
            answer = await self._reception.answer(self.peer, message)
            kind = Kind.FAILED if answer is None else Kind.ANSWER
            await self._post(control_frame(number, kind, answer or b""))
        except Unavailable:
            return  # the peer has gone; nobody waits for this answer
        finally:
            self._answering -= 1
            self._reception.release_request(self.peer)

    def _take_answer(self, number: int, answer: bytes | None) -> None:
        waiting = self._waiting.get(number)
        if waiting is None or waiting.done():
            return  # it came after its time
        if answer is None:
            waiting.set_exception(Unavailable("the peer could not answer", retry_after_ms=RETRY_MS))
        else:
            waiting.set_result(answer)

    def _reply(self, frame: bytes) -> None:
        """Answer without waiting for room, as the reader must not wait for its own peer.

        Raises:
            Unavailable: the peer asks and does not read.
        """
        if self._outbox_bytes > 2 * self._limits.outbox_bytes_max + self._limits.frame_bytes_max:
            raise Unavailable("the peer does not read what it asked for", retry_after_ms=RETRY_MS)
        self._post_now(frame)

    # Streams

    async def _accept_streams(self) -> None:
        while True:
            stream = IrohStream(self.peer, await self._connection.accept_bi(), self._limits.frame_bytes_max)
            self._idle_intervals = 0
            self._forget_finished_streams()
            if self._reception.admit_stream(self.peer):
                self._streams.add(stream)
                self._reception.spawn(self._reception.attend(stream))
            else:
                await stream.abort()

    def _forget_finished_streams(self) -> None:
        self._streams = {stream for stream in self._streams if not stream.over}

    # Life

    async def _watch(self) -> None:
        """Counts this loop's own intervals, not time: a stalled loop has heard from nobody, which is no news.

        Silence is news only of a peer that owes something: it is pinged while work is open or an answer is due, and
        else once in ``RESTING_INTERVALS``. Whatever else is heard saves a ping, so one side's pings serve both.
        """
        while True:
            await asyncio.sleep(self._limits.ping_interval_ms / 1000)
            busy = bool(self._waiting or self._answering or any(not stream.over for stream in self._streams))
            expecting = not self._heard and (busy or self._owed)
            self._silent_intervals = self._silent_intervals + 1 if expecting else 0
            if self._silent_intervals > self._limits.silent_intervals_max:
                raise _gone()
            self._idle_intervals = 0 if busy else self._idle_intervals + 1
            if self._idle_intervals > self._idle_intervals_max:
                raise _gone()
            self._heard = False
            self._unmeasured_intervals += 1
            if expecting or self._unmeasured_intervals >= RESTING_INTERVALS:
                self._send_ping()

    def _send_ping(self) -> None:
        number = self._next_number()
        self._ping = (number, asyncio.get_running_loop().time())
        self._owed, self._unmeasured_intervals = True, 0
        self._reply(control_frame(number, Kind.PING))

    def _take_pong(self, number: int) -> None:
        if self._ping is None or self._ping[0] != number:
            return
        sample = (asyncio.get_running_loop().time() - self._ping[1]) * 1000
        before = sample if self.round_trip_ms is None else self.round_trip_ms
        self.round_trip_ms = before + _RTT_WEIGHT * (sample - before)
        self._ping = None


def _gone() -> Unavailable:
    return Unavailable("the peer is gone", retry_after_ms=RETRY_MS)
