"""A town in which one fault happens, at one named point of one purchase: to a message, or to a node around it.

A point is a message that passes from one node to another, or a write to a node's store. Each is named by what it
carries; a fault strikes the first time that its point is passed.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tests.integration.node.town import House, MortalLedger, MortalRecords, OwnedTransport, Town
from wwwmarket.crypto import canonical, signing
from wwwmarket.domain.errors import Unavailable
from wwwmarket.domain.identity import EntryId, NodeId
from wwwmarket.domain.records import Award, Body, NodeAddress, Settlement
from wwwmarket.node import messages
from wwwmarket.ports.store import Change
from wwwmarket.ports.transport import RequestHandler, Stream, StreamHandler

Message = Literal["lost", "late", "twice"]
Death = Literal["sender dies before", "sender dies after", "receiver dies before", "receiver dies after"]
WRITES = ("dies before", "dies after")
MESSAGES: tuple[str, ...] = ("lost", "late", "twice")
DEATHS: tuple[str, ...] = ("sender dies before", "sender dies after", "receiver dies before", "receiver dies after")

LATE_MS = 4_000
"""Longer than any of the patiences before the first token; shorter than an award's life."""
AWAY_S = 0.5
_UNDER_WAY_S = 0.0001
"""So that what was sent is with its receiver, who has done with it what needs no time."""

FRAMES = ("head of the answer", "first token", "second token", "attestation")
"""What a winner's sealed frames are, in their order: its engine makes a pause between one and the next."""
FIELDS = {
    "outbox": "entry, before it is sent",
    "award": "award, to be explained",
    "execution": "award, before the answer",
    "claim": "attestation, before it is sent",
}
"""What records of each kind are about."""


@dataclass(frozen=True)
class Fault:
    """``point`` as in ``FaultyTown.points``."""

    point: str
    kind: str


class FaultyTown(Town):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.fault: Fault | None = None
        self.points: list[str] = []
        """What has been passed since ``arm``, each once, in its order."""
        self.struck = False
        self._armed = False
        self.writes: set[str] = set()

    def arm(self, fault: Fault | None) -> None:
        self.fault, self._armed = fault, True

    def pass_by(self, point: str) -> str | None:
        """The kind of fault that strikes here, if one does."""
        if not self._armed:
            return None
        if point not in self.points:
            self.points.append(point)
        if self.struck or self.fault is None or self.fault.point != point:
            return None
        self.struck = True
        return self.fault.kind

    def house_of(self, node: NodeId) -> House:
        return next(house for house in self.houses.values() if house.id == node)

    def kill(self, house: House) -> None:
        """The story notices, and ends all that is this house's."""
        house.life.over = True
        house.died.set()

    async def die(self, house: House) -> None:
        """Of the house whose task this is: nobody returns from here."""
        self.kill(house)
        await asyncio.get_running_loop().create_future()

    async def kill_other(self, house: House) -> None:
        self.kill(house)
        await asyncio.sleep(0.001)

    def carried(self, house: House, transport: OwnedTransport) -> Any:
        return FaultyTransport(self, house, transport)

    def recorded(self, house: House, records: MortalRecords) -> Any:
        return FaultyRecords(self, house, records)

    def logged(self, house: House, ledger: MortalLedger) -> Any:
        return FaultyLedger(self, house, ledger)


class FaultyTransport:
    def __init__(self, town: FaultyTown, house: House, transport: OwnedTransport) -> None:
        self._town, self._house, self._transport = town, house, transport
        self.address, self.close = transport.address, transport.close
        self.round_trip_ms = transport.round_trip_ms

    def serve(self, on_request: RequestHandler, on_stream: StreamHandler) -> None:
        async def stream(opened: Stream, opening: bytes) -> None:
            answers = isinstance(messages.read_opening(opening), messages.Execute)
            await on_stream(FaultyStream(self._town, self._house, opened) if answers else opened, opening)

        self._transport.serve(on_request, stream)

    async def request(self, peer: NodeAddress, message: bytes, *, timeout_ms: int) -> bytes:
        there, back = _names_of(message)
        if there is None:
            return await self._transport.request(peer, message, timeout_ms=timeout_ms)
        town, other = self._town, self._town.house_of(peer.node)
        kind = town.pass_by(f"{there}: {self._house.name} to {other.name}")
        if kind == "lost":
            await asyncio.sleep(timeout_ms / 1_000)
            raise Unavailable("no answer in time", retry_after_ms=1)
        await self._before(kind, other)
        answer = asyncio.ensure_future(self._transport.request(peer, message, timeout_ms=timeout_ms))
        if kind == "twice":
            await answer
            answer = asyncio.ensure_future(self._transport.request(peer, message, timeout_ms=timeout_ms))
        if kind == "sender dies after":
            await asyncio.sleep(_UNDER_WAY_S)
            await town.die(self._house)
        said = await answer
        if kind == "receiver dies after":
            town.kill(other)
        return await self._answered(f"{back}: {other.name} to {self._house.name}", said, other, timeout_ms)

    async def _answered(self, point: str, said: bytes, other: House, timeout_ms: int) -> bytes:
        """The way back: its sender is the other one."""
        kind = self._town.pass_by(point)
        if kind == "lost":
            await asyncio.sleep(timeout_ms / 1_000)
            raise Unavailable("no answer in time", retry_after_ms=1)
        if kind == "late":
            await asyncio.sleep(min(LATE_MS, timeout_ms) / 1_000)
            if timeout_ms < LATE_MS:
                raise Unavailable("no answer in time", retry_after_ms=1)
        elif kind == "sender dies before":
            await self._town.kill_other(other)
            raise Unavailable("the peer is gone", retry_after_ms=1)
        elif kind == "sender dies after":
            self._town.kill(other)
        elif kind is not None and kind.startswith("receiver"):
            await self._town.die(self._house)
        return said

    async def _before(self, kind: str | None, other: House) -> None:
        if kind == "late":
            await asyncio.sleep(LATE_MS / 1_000)
        elif kind == "sender dies before":
            await self._town.die(self._house)
        elif kind == "receiver dies before":
            await self._town.kill_other(other)

    async def open_stream(self, peer: NodeAddress, opening: bytes, *, timeout_ms: int) -> Any:
        if not isinstance(messages.read_opening(opening), messages.Execute):
            return await self._transport.open_stream(peer, opening, timeout_ms=timeout_ms)
        town, other = self._town, self._town.house_of(peer.node)
        kind = town.pass_by(f"award and request: {self._house.name} to {other.name}")
        if kind == "lost":
            await asyncio.sleep(timeout_ms / 1_000)
            raise Unavailable("no way there", retry_after_ms=1)
        await self._before(kind, other)
        if kind == "twice":
            await self._transport.open_stream(peer, opening, timeout_ms=timeout_ms)
            await asyncio.sleep(0.01)
        stream = await self._transport.open_stream(peer, opening, timeout_ms=timeout_ms)
        if kind == "receiver dies after":
            await asyncio.sleep(0)
            town.kill(other)
        elif kind == "sender dies after":
            await town.die(self._house)
        return FaultyStream(town, self._house, stream)


class FaultyStream:
    """One end of an execution's stream; its frames have names by their order, or by what they say."""

    def __init__(self, town: FaultyTown, house: House, stream: Stream) -> None:
        self._town, self._house, self._stream = town, house, stream
        self._other = town.house_of(stream.peer)
        self._sent = 0
        self.peer = stream.peer
        self.receive, self.finish, self.abort = stream.receive, stream.finish, stream.abort

    async def send(self, frame: bytes) -> None:
        name = self._name_of(frame)
        kind = self._town.pass_by(f"{name}: {self._house.name} to {self._other.name}")
        match kind:
            case "lost":  # QUIC repeats what is lost; what stays lost is the connection
                self._town.network.cut(self._house.id, self._other.id)
                self._town.network.mend(self._house.id, self._other.id)
            case "late":
                await asyncio.sleep(LATE_MS / 1_000)
            case "twice":
                await self._stream.send(frame)
            case "sender dies before":
                await self._town.die(self._house)
            case "receiver dies before":
                await self._town.kill_other(self._other)
            case _:
                pass
        await self._stream.send(frame)
        if kind == "sender dies after":
            await self._town.die(self._house)
        elif kind == "receiver dies after":
            await asyncio.sleep(0.002)
            self._town.kill(self._other)

    def _name_of(self, frame: bytes) -> str:
        if self._house.engine is not None:
            self._sent += 1
            return FRAMES[min(self._sent, len(FRAMES)) - 1]
        match messages.read_gateway_frame(frame):
            case messages.Promise():
                return "promise, passed on"
            case messages.ReceiptGiven():
                return "receipt"
            case messages.CancelExecution():
                return "cancellation"


class FaultyRecords:
    def __init__(self, town: FaultyTown, house: House, records: MortalRecords) -> None:
        self._town, self._house, self._records = town, house, records
        self.read, self.scan = records.read, records.scan

    async def write(self, changes: Sequence[Change], **options: Any) -> None:
        kept = [change for change in changes if change.body is not None and change.kind in FIELDS]
        if not kept:
            await self._records.write(changes, **options)
            return
        point = f"{self._house.name} writes {FIELDS[kept[0].kind]}"
        if kept[0].kind == "outbox":
            point = f"{self._house.name} writes {_entry_of(kept[0].body or b'')}, before it is sent"
        self._town.writes.add(point)
        kind = self._town.pass_by(point)
        if kind == "dies before":
            await self._town.die(self._house)
        await self._records.write(changes, **options)
        if kind == "dies after":
            await self._town.die(self._house)


class FaultyLedger:
    def __init__(self, town: FaultyTown, house: House, ledger: MortalLedger) -> None:
        self._town, self._house, self._ledger = town, house, ledger
        self.size, self.promised, self.read, self.index_of = ledger.size, ledger.promised, ledger.read, ledger.index_of
        self.checkpoint, self.tile, self.put_checkpoint = ledger.checkpoint, ledger.tile, ledger.put_checkpoint

    async def append(self, first_index: int, leaves: Sequence[bytes], ids: Sequence[EntryId]) -> None:
        names = [name for leaf in leaves if (name := _entry_of(leaf)) in {"award", "settlement"}]
        if not names:
            await self._ledger.append(first_index, leaves, ids)
            return
        point = f"{self._house.name} writes {names[0]} into its log"
        self._town.writes.add(point)
        kind = self._town.pass_by(point)
        if kind == "dies before":
            await self._town.die(self._house)
        await self._ledger.append(first_index, leaves, ids)
        if kind == "dies after":
            await self._town.die(self._house)


def _entry_of(leaf: bytes) -> str:
    body = bytes(signing.open_entry(leaf).entry.body)
    read = canonical.decode(body, Body, bytes_max=canonical.ENTRY_BYTES_MAX)
    return {Award: "award", Settlement: "settlement"}.get(type(read), type(read).__name__.lower())


def _names_of(message: bytes) -> tuple[str | None, str]:
    """Of a request and its answer, where a purchase is about them."""
    match _read(message):
        case messages.AskRequest():
            return "bid", "ask"
        case messages.Submit() as submit:
            name = _entry_of(submit.leaves[0].encode())
            return (name, f"promise of the {name}") if name in {"award", "settlement"} else (None, "")
        case _:
            return None, ""


def _read(message: bytes) -> object:
    return messages.read_request(message)
