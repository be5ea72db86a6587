"""The operator's half of finality: asks every mirror of the committee to cosign, until a quorum has.

One checkpoint is asked for at a time, a *round*: mirrors never go back, so a target that moved with every checkpoint
would collect one cosignature of each. Each mirror has a task of its own, so that a silent one delays nobody.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from wwwmarket.config import FinalityConfig
from wwwmarket.domain.committee import Committee, Member
from wwwmarket.domain.errors import Malformed, Refusal, Unavailable
from wwwmarket.ledger.checkpoint import VerifiedCheckpoint, open_checkpoint, with_cosignatures
from wwwmarket.ledger.merkle import SIZE_MAX
from wwwmarket.ledger.note import NoteSignature, VerifierKey, parse_signatures
from wwwmarket.ledger.proofs import Proof, consistency_nodes, consistency_proof
from wwwmarket.ledger.quorum import cosigner_key
from wwwmarket.ledger.tiles import TILE_WIDTH, TileId, TileReader, tiles_holding
from wwwmarket.ledger.witness import SIZE_TYPE, CosignRequest, encode_request, parse_size
from wwwmarket.node.replica import Covering, Replica
from wwwmarket.node.sequencer import Sequencer
from wwwmarket.ports.clock import Clock
from wwwmarket.ports.mirrors import MirrorAnswer, Mirrors
from wwwmarket.ports.store import LedgerStore

_log = logging.getLogger("wwwmarket.finality")

_OK: Final = 200
_CONFLICT: Final = 409
_RETRY_MS: Final = 1_000
_OTHER_TIME: Final = b"other_time"


class Round:
    """One checkpoint, and who has cosigned it."""

    def __init__(self, checkpoint: VerifiedCheckpoint, covering: Covering, judges: Committee, began_ms: float) -> None:
        self.checkpoint: Final = checkpoint
        self.covering: Final = covering
        self.judges: Final = judges
        self.began_ms: Final = began_ms
        self.cosigned: Final[dict[Member, tuple[NoteSignature, ...]]] = {}
        self.refreshed = False

    @property
    def size(self) -> int:
        return self.covering.size

    @property
    def is_final(self) -> bool:
        return 0 < self.judges.quorum <= len(self.cosigned.keys() & set(self.judges.members))

    def note(self) -> bytes:
        """The checkpoint with the cosignatures of its judges."""
        lines = [line for member in self.judges.members for line in self.cosigned.get(member, ())]
        return with_cosignatures(self.checkpoint.note, lines)

    def add(self, log: VerifierKey, member: Member, lines: str) -> None:
        """Take a mirror's answer.

        Raises:
            Malformed: not signature lines.
            Unauthorised: not the member's cosignature on this checkpoint.
        """
        key = cosigner_key(member)
        own = tuple(each for each in parse_signatures(lines) if (each.name, each.key_id) == (key.name, key.id))[:1]
        opened = open_checkpoint(with_cosignatures(self.checkpoint.note, own), log, [key])
        if not opened.cosignatures:
            raise Malformed(f"{member.name} answered without a cosignature of its own")
        self.cosigned[member] = own


class Gathering:
    """Runs beside a sequencer. ``on_final`` is awaited with each note that became final."""

    def __init__(  # noqa: PLR0913, PLR0917 - what gathering needs
        self,
        replica: Replica,
        sequencer: Sequencer,
        ledger: LedgerStore,
        mirrors: Mirrors,
        clock: Clock,
        config: FinalityConfig,
        on_final: Callable[[bytes], Awaitable[None]],
    ) -> None:
        self._replica = replica
        self._sequencer = sequencer
        self._ledger = ledger
        self._mirrors = mirrors
        self._clock = clock
        self._config = config
        self._on_final = on_final
        self._round: Round | None = None
        self._moved = asyncio.Condition()
        self._asking: dict[Member, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Gathers until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._watch())
            group.create_task(self._tick())

    async def _watch(self) -> None:
        noted = 0
        while True:
            await self._sequencer.news(SIZE_MAX, noted)
            noted = self._replica.checkpoint.checkpoint.size
            await self._advance()

    async def _tick(self) -> None:
        while True:
            await self._clock.sleep_until_ms(self._clock.monotonic_ms() + self._config.round_ms)
            await self._advance()

    async def _advance(self) -> None:
        """Begin a round with the latest checkpoint, unless the one at work still has time."""
        replica, now_ms, current = self._replica, self._clock.monotonic_ms(), self._round
        try:
            checkpoint, covering = replica.covered
        except Unavailable:
            return
        if covering.size <= replica.final_size or not replica.judges.members:
            self._round = None
            return
        if current is not None and (covering.size == current.size or now_ms < current.began_ms + self._config.round_ms):
            return
        self._round = Round(checkpoint, covering, replica.judges, now_ms)
        self._staff(dict.fromkeys((*replica.judges.members, *replica.committee_at(covering.size).members)))
        async with self._moved:
            self._moved.notify_all()

    def _staff(self, members: dict[Member, None]) -> None:
        """A task for each member, those that come into office too: they have all of the log to read first."""
        for gone in self._asking.keys() - members:
            self._asking.pop(gone).cancel()
        for member in members:
            if member not in self._asking:
                self._asking[member] = self._group.create_task(self._ask_forever(member))

    async def _ask_forever(self, member: Member) -> None:
        old, pause_ms = 0, self._config.retry_first_ms
        while True:
            due = await self._due(member)
            try:
                old = await self._ask(member, due, old)
            except Refusal as refusal:
                _log.debug("%s: %s", member.name, refusal.message)
                await self._clock.sleep_until_ms(self._clock.monotonic_ms() + pause_ms)
                pause_ms = min(2 * pause_ms, self._config.retry_max_ms)
            else:
                pause_ms = self._config.retry_first_ms

    async def _due(self, member: Member) -> Round:
        """The round in which this member has not cosigned yet."""
        while True:
            if self._round is not None and member not in self._round.cosigned:
                return self._round
            async with self._moved:
                await self._moved.wait()

    async def _ask(self, member: Member, due: Round, old: int) -> int:
        """Ask for one cosignature; gives the size that the mirror has cosigned then.

        Raises:
            Refusal: it does not cosign, for whatever reason.
        """
        answer = await self._request(member, due, old)
        if answer.status == _CONFLICT:
            known = _size_in(answer)
            if known > due.size:
                raise Unavailable(f"{known} entries are cosigned there already", retry_after_ms=_RETRY_MS)
            answer, old = await self._request(member, due, known), known
        if answer.status == _OK:
            due.add(self._replica.log, member, answer.body.decode("utf-8", "replace"))
            if due is self._round and due.is_final:
                await self._finish(due)
            return due.size
        if answer.body.startswith(_OTHER_TIME):
            self._refresh_time(due)
        said = answer.body[:200].decode("utf-8", "replace").strip()
        raise Unavailable(f"HTTP status {answer.status}: {said}", retry_after_ms=_RETRY_MS)

    async def _request(self, member: Member, due: Round, old: int) -> MirrorAnswer:
        body = encode_request(
            CosignRequest(old=old, proof=await self._proof(due.covering, old), note=due.checkpoint.note)
        )
        return await self._mirrors.add_checkpoint(member.url, body, timeout_ms=self._config.ask_timeout_ms)

    async def _proof(self, covering: Covering, old: int) -> Proof:
        """Raises Malformed where the mirror has cosigned more than there is."""
        size = covering.size
        partial = {tile.id: tile.hashes for tile in covering.partial}
        tiles: dict[TileId, bytes] = {}
        for name in tiles_holding(consistency_nodes(old, size), size):
            hashes = partial.get(name) if name.width < TILE_WIDTH else await self._ledger.tile(name.level, name.number)
            assert hashes is not None, "a covered tree has its tiles"
            tiles[name] = hashes
        return consistency_proof(old, size, TileReader(size, tiles.__getitem__))

    async def _finish(self, done: Round) -> None:
        note = done.note()
        if self._replica.finalise(note):
            self._round = None
            await self._advance()
            await self._sequencer.announce()
            await self._on_final(note)

    def _refresh_time(self, due: Round) -> None:
        """A mirror that comes back cosigns no old time, so that an operator cannot turn it back: give it a new mark."""
        if due.refreshed or due is not self._round:
            return
        due.refreshed = True
        with contextlib.suppress(Refusal):
            self._sequencer.mark()


def _size_in(answer: MirrorAnswer) -> int:
    """Raises Malformed."""
    if answer.media_type != SIZE_TYPE:
        raise Malformed(f"an answer of type {answer.media_type} where {SIZE_TYPE} is due")
    return parse_size(answer.body)
