"""Runs a mirror: events in, effects performed. It writes before it lets the machine sign.

A mirror whose database lost its end might sign another tree than the one that it has forgotten. Such a loss is known at
the start, by a word that is kept beside the database. The mirror then signs nothing until a quorum of its committee has
made final as many entries as it may have signed: no other tree of that size can become final any more.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final, Protocol, assert_never

from wwwmarket.config import MirrorConfig
from wwwmarket.crypto import canonical
from wwwmarket.domain.errors import Conflict, Malformed, NotFound, Refusal, TooLarge, Unavailable
from wwwmarket.domain.evidence import LogEvidence
from wwwmarket.domain.records import Certified, Succession
from wwwmarket.ledger.bundles import encode_bundle
from wwwmarket.ledger.checkpoint import open_checkpoint
from wwwmarket.ledger.evidence import name_of
from wwwmarket.ledger.merkle import HASH_BYTES
from wwwmarket.ledger.note import NOTE_BYTES_MAX, VerifierKey
from wwwmarket.ledger.proofs import Proof
from wwwmarket.ledger.quorum import check_quorum, cosigner_keys
from wwwmarket.ledger.tiles import TILE_WIDTH, BundleId, TileId, parse_path
from wwwmarket.ledger.witness import CosignRequest, parse_request
from wwwmarket.mirror.accusing import make_evidence, nodes_for, size_of
from wwwmarket.mirror.events import (
    Accuse,
    Answer,
    CheckpointOffered,
    Compare,
    Cosigned,
    Effect,
    EntriesFetched,
    Event,
    Fetch,
    FetchFailed,
    Keep,
    Persist,
    Persisted,
    Refused,
    Served,
)
from wwwmarket.mirror.machine import Mirror
from wwwmarket.mirror.reading import read_entries, read_nodes, read_proof
from wwwmarket.mirror.service import MirrorStatus
from wwwmarket.ports.clock import Clock
from wwwmarket.ports.log_files import LogFiles
from wwwmarket.ports.store import Change, LedgerStore, RecordStore
from wwwmarket.rules.succession import Successions, write_successions

_log = logging.getLogger("wwwmarket.mirror")

PENDING: Final = "pending-checkpoint"
OATH: Final = "oath"
"""Kind of the record of what this mirror has sworn to, by the log's name."""
SUCCESSION: Final = "succession"
_REPLAY_ENTRIES: Final = 1_024
CASES_MAX: Final = 4
"""Faults that wait to be proven; a log that lies without end is proven a liar by the first of them."""

KeepEvidence = Callable[[str, bytes], object]
"""Writes evidence under a name, once."""


class Signed(Protocol):
    """How many entries this mirror has cosigned, kept beside its database. It goes down with the log only."""

    @property
    def size(self) -> int: ...

    def saw(self, size: int) -> None:
        """So many are about to be cosigned."""
        ...

    def forget(self, size: int) -> None:
        """Only so many count any more: a quorum has given the log to another operator from there on."""
        ...


class Mirroring:
    """Implements ``mirror.service.MirrorService``, where what the door asks is described."""

    def __init__(  # noqa: PLR0913, PLR0917 - what a mirror stands on
        self,
        mirror: Mirror,
        files: LogFiles,
        ledger: LedgerStore,
        records: RecordStore,
        clock: Clock,
        config: MirrorConfig,
        keep: KeepEvidence,
        signed: Signed,
        peer: Callable[[str], LogFiles] | None = None,
    ) -> None:
        """``peer`` gives the files of another mirror by its URL: what the log does not serve is read there."""
        self.mirror: Final = mirror
        self._files = files
        self._ledger = ledger
        self._records = records
        self._clock = clock
        self._config = config
        self._keep = keep
        self._signed = signed
        self._forgotten = 0
        """So many entries may have been cosigned by this mirror, and are here no more."""
        self._peer = peer
        self._ahead: LogFiles | None = None
        self._calls: dict[int, asyncio.Future[Cosigned | Refused]] = {}
        self._next_call = 0
        self._writes: asyncio.Queue[Persist] = asyncio.Queue()
        self._fetches: asyncio.Queue[Fetch] = asyncio.Queue()
        self._cases: asyncio.Queue[Compare | Accuse] = asyncio.Queue(CASES_MAX)
        self._asked_ms = clock.monotonic_ms()

    async def start(self) -> None:
        """Replay what is stored.

        Raises:
            Refusal: that does not follow.
            Conflict: all of it is lost, and with it the committee by whose word the mirror could find back.
        """
        kept = await self._ledger.checkpoint()
        size = 0
        while leaves := await self._ledger.read(size, size + _REPLAY_ENTRIES):
            self.mirror.replay(leaves, kept, self._clock.now_ms())
            size += len(leaves)
        self.mirror.check_replayed(kept)
        self._notice_loss(max(self._signed.size, await self._ledger.promised()))
        pending = await self._records.read(PENDING, PENDING)
        if pending is not None:
            self.mirror.remember(pending)
        oath = await self._records.read(OATH, self.mirror.log.name)
        if oath is not None:
            self.mirror.swear(canonical.decode(oath, Succession))

    async def swear(self, succession: Succession) -> None:
        """Take an oath to the log's successor, on the disk before anybody sees it. Raises as ``oaths.check_oath``."""
        self.mirror.check_oath(succession)
        if self._signed.size > self.mirror.cosigned_size:
            raise Conflict(
                f"this mirror has signed up to {self._signed.size} entries and holds {self.mirror.cosigned_size}: one "
                "that forgot what it signed cannot swear to what was final"
            )
        change = Change(kind=OATH, key=succession.origin, body=canonical.encode(succession))
        await self._records.write([change])
        self.mirror.swear(succession)

    async def follow(self, told: Successions) -> bool:
        """Follow what a quorum has sworn to, now and after every start; whether this mirror can go on as it is.

        If it cannot, what it held beyond is given up: make the mirror anew from what is stored, and ask again.

        Raises:
            Refusal: one of those is no successor of the log that is here.
        """
        stored = [canonical.decode(body, Certified[Succession]) for _, body in await self._records.scan(SUCCESSION)]
        for certified in sorted([*stored, *(one for one in told if one not in stored)], key=lambda one: one.body.size):
            keep = self.mirror.accept(certified)
            change = Change(kind=SUCCESSION, key=str(certified.body.size), body=canonical.encode(certified))
            if certified not in stored:
                await self._records.write([change])
            if keep is not None:
                _log.warning("what this mirror held beyond %d entries was never final, and is given up", keep)
                await self._records.write([Change(kind=PENDING, key=PENDING, body=None)])
                await self._ledger.cut(keep)
                self._signed.forget(keep)
                return False
        return True

    def _notice_loss(self, signed: int) -> None:
        size = self.mirror.size
        if size >= signed:
            return
        if not size:
            raise Conflict(
                f"this mirror has signed up to {signed} entries, and its database holds none of them: restore the "
                "database, or have the committee elect a new mirror with a key of its own; one that forgot what it "
                "signed must not sign again"
            )
        self._forgotten = signed
        _log.warning(
            "the database ends at %d entries of %d: its end was lost. It is read again, and this mirror signs when a "
            "quorum of its committee has made as many entries final",
            *(size, signed),
        )

    @property
    def _recovering(self) -> bool:
        return self.mirror.size < self._forgotten

    async def run(self) -> None:
        """Works until cancelled. Raises what keeps it from writing: then it signs no more."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._fetch_forever())
            group.create_task(self._write_forever())
            group.create_task(self._look_forever())
            group.create_task(self._prove_forever())

    # What the door asks

    async def add_checkpoint(self, body: bytes) -> Cosigned | Refused:
        """Answer a body of C2SP tlog-witness ``add-checkpoint``. Raises TooLarge."""
        try:
            request = parse_request(body)
        except TooLarge:
            raise
        except Malformed as refusal:
            return Refused(reason="malformed", message=refusal.message, size=self.mirror.cosigned_size)
        if self._recovering:
            message = f"this mirror lost what it signed, and waits until {self._forgotten} entries are final"
            return Refused(reason="unavailable", message=message, size=self.mirror.cosigned_size)
        call, self._next_call = self._next_call, self._next_call + 1
        answer: asyncio.Future[Cosigned | Refused] = asyncio.get_running_loop().create_future()
        self._calls[call] = answer
        try:
            self._handle(CheckpointOffered(call=call, request=request, now_ms=self._clock.now_ms()))
            answered = await answer
        finally:
            del self._calls[call]
        if isinstance(answered, Cosigned):  # who asks for nothing that can be cosigned does not keep it from looking
            self._asked_ms = self._clock.monotonic_ms()
        return answered

    def verifier_key(self) -> str:
        return self.mirror.log.text

    def status(self) -> MirrorStatus:
        size, _, state_root = self.mirror.digest()
        return MirrorStatus(
            origin=self.mirror.log.name,
            mirror=self.mirror.name,
            cosigned_size=self.mirror.cosigned_size,
            ledger_size=size,
            ledger_time_ms=self.mirror.state.now_ms,
            state_root=state_root,
            decrees=self.mirror.state.governance.decrees,
            successor=None if self.mirror.oath is None else self.mirror.oath.successor,
            condemned=self.mirror.condemned,
        )

    def successions(self) -> bytes:
        return write_successions(self.mirror.successions)

    def served(self) -> Served:
        """Raises Unavailable until something is cosigned."""
        served = self.mirror.served
        if served is None:
            raise Unavailable("this mirror has cosigned nothing yet", retry_after_ms=1_000)
        return served

    async def tile(self, path: str) -> bytes:
        """The bytes of ``tile/…``. Raises Malformed, NotFound, Unavailable."""
        name, served = parse_path(path), self.served()
        match name:
            case BundleId():
                start = name.number * TILE_WIDTH
                if start + name.width > served.checkpoint.size:
                    raise NotFound("the checkpoint has no such entries")
                return encode_bundle(await self._ledger.read(start, start + name.width))
            case TileId():
                return await self._hashes(name, served)

    async def _hashes(self, tile: TileId, served: Served) -> bytes:
        hashes = await self._ledger.tile(tile.level, tile.number)
        if hashes is None:
            partial = (each for each in served.partial if (each.level, each.number) == (tile.level, tile.number))
            hashes = next((each.hashes for each in partial), b"")
        if len(hashes) < tile.width * HASH_BYTES:
            raise NotFound("the checkpoint has no such tile")
        return hashes[: tile.width * HASH_BYTES]

    # Effects

    def _handle(self, event: Event) -> None:
        for effect in self.mirror.step(event):
            self._perform(effect)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Answer():
                waiting = self._calls.get(effect.call)
                if waiting is not None and not waiting.done():
                    waiting.set_result(effect.answer)
            case Fetch():
                self._fetches.put_nowait(effect)
            case Persist():
                self._writes.put_nowait(effect)
            case Keep():
                self._keep_evidence(effect.evidence)
            case Compare() | Accuse():
                with contextlib.suppress(asyncio.QueueFull):
                    self._cases.put_nowait(effect)
            case _:
                assert_never(effect)

    def _keep_evidence(self, evidence: LogEvidence) -> None:
        name = name_of(evidence)
        _log.error("evidence of the log's fault is kept: %s", name)
        self._keep(name, canonical.encode(evidence))

    async def _prove_forever(self) -> None:
        while True:
            case = await self._cases.get()
            log = self.mirror.log
            try:
                async with asyncio.timeout(self._config.fetch_timeout_ms / 1_000):
                    evidence = await self._prove(log, case)
            except (Refusal, TimeoutError) as refusal:
                _log.warning("the log's fault could not be proven from its own tiles: %s", refusal)
            else:
                if evidence is not None:
                    self._keep_evidence(evidence)

    async def _prove(self, log: VerifierKey, case: Compare | Accuse) -> LogEvidence | None:
        earlier = case.beside if isinstance(case, Accuse) else None
        if isinstance(case, Accuse) and case.before is not None and earlier is None:
            index = await self._ledger.index_of(case.before)
            if index is not None:
                earlier = index, (await self._ledger.read(index, index + 1))[0]
        size = size_of(case.second if isinstance(case, Compare) else case.note)
        node = await read_nodes(self._files, nodes_for(case, None if earlier is None else earlier[0]), size)
        return make_evidence(log, case, node, earlier)

    async def _fetch_forever(self) -> None:
        while True:
            fetch = await self._fetches.get()
            self._handle(await self._fetch(fetch))

    async def _fetch(self, fetch: Fetch) -> EntriesFetched | FetchFailed:
        try:
            async with asyncio.timeout(self._config.fetch_timeout_ms / 1_000):
                leaves, proof = await self._read(fetch)
        except Refusal as refusal:
            return FetchFailed(message=f"the log's entries cannot be read: {refusal.message}")
        except TimeoutError:
            return FetchFailed(message="the log's entries cannot be read in time")
        return EntriesFetched(start=fetch.start, leaves=tuple(leaves), proof=proof, now_ms=self._clock.now_ms())

    async def _read(self, fetch: Fetch) -> tuple[list[bytes], Proof]:
        """Of the log, or else of the mirror that is ahead: whoever serves them, the checkpoint says which they are."""
        try:
            return await _read_stretch(self._files, fetch)
        except Refusal:
            if self._ahead is None:
                raise
            return await _read_stretch(self._ahead, fetch)

    async def _write_forever(self) -> None:
        while True:
            persist = await self._writes.get()
            await self._write(persist)
            if persist.covered is not None:
                self._signed.saw(persist.covered.size)
                self._handle(Persisted(size=persist.covered.size, now_ms=self._clock.now_ms()))

    async def _write(self, persist: Persist) -> None:
        """Asked for at once, in this order, so that the store can do it in one commit and never in another order."""
        writes = [self._ledger.append(persist.start, persist.leaves, persist.ids)]
        if persist.covered is None:
            pending = Change(kind=PENDING, key=PENDING, body=persist.pending)
            writes.insert(0, self._records.write([pending]))
        else:
            covered = persist.covered
            writes.append(self._ledger.put_checkpoint(covered.size, covered.note, covered.tiles))
        await asyncio.gather(*writes)

    async def _look_forever(self) -> None:
        """A mirror that nobody asks follows all the same."""
        while True:
            await self._clock.sleep_until_ms(self._asked_ms + self._config.quiet_ms)
            if self._clock.monotonic_ms() - self._asked_ms < self._config.quiet_ms:
                continue
            self._asked_ms = self._clock.monotonic_ms()
            try:
                note = await (self._read_final() if self._recovering else self._look())
            except Refusal as refusal:
                _log.debug("the log's checkpoint cannot be read: %s", refusal.message)
                continue
            request = CosignRequest(old=0, proof=Proof(()), note=note)
            self._handle(CheckpointOffered(call=None, request=request, now_ms=self._clock.now_ms()))

    async def _read_final(self) -> bytes:
        """A checkpoint that a quorum of the committee which this mirror still knows has cosigned.

        Raises:
            Unauthorised: none has.
            Unavailable: it is of fewer entries than this mirror may have signed.
        """
        note = await self._files.read("final", bytes_max=NOTE_BYTES_MAX)
        committee = self.mirror.state.governance.committee
        opened = open_checkpoint(note, self.mirror.log, cosigner_keys(committee))
        check_quorum(opened, committee)
        if opened.checkpoint.size < self._forgotten:
            raise Unavailable(f"{opened.checkpoint.size} entries are final", retry_after_ms=self._config.quiet_ms)
        return note

    async def _look(self) -> bytes:
        """The log's own checkpoint; where it is gone, one of another mirror of the committee that is ahead.

        Raises:
            Unavailable: neither can be read.
        """
        try:
            return await self._files.read("checkpoint", bytes_max=NOTE_BYTES_MAX)
        except Refusal as refusal:
            _log.debug("the log's checkpoint cannot be read: %s", refusal.message)
        for member in self.mirror.fellows():
            if self._peer is None:
                break
            files = self._peer(member.url)
            try:
                note = await files.read("checkpoint", bytes_max=NOTE_BYTES_MAX)
                if size_of(note) > self.mirror.cosigned_size:
                    self._ahead = files
                    return note
            except Refusal as refusal:
                _log.debug("%s: %s", member.url, refusal.message)
        raise Unavailable("neither the log nor a mirror that is ahead", retry_after_ms=self._config.quiet_ms)


async def _read_stretch(files: LogFiles, fetch: Fetch) -> tuple[list[bytes], Proof]:
    leaves = await read_entries(files, fetch)
    return leaves, await read_proof(files, fetch) if fetch.end < fetch.size else Proof(())
