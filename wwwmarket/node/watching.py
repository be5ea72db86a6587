"""What a node keeps against the operator that it follows: broken promises, and notes that contradict each other.

Whatever it keeps has proven itself here first.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from wwwmarket.crypto import canonical
from wwwmarket.crypto.signing import Verified
from wwwmarket.domain.errors import Refusal, Unavailable
from wwwmarket.domain.evidence import ForkedChain, LogEvidence
from wwwmarket.domain.records import Inclusion
from wwwmarket.ledger.checkpoint import parse_checkpoint
from wwwmarket.ledger.evidence import judge, make_fork, name_of
from wwwmarket.ledger.merkle import NodeReader, peaks_of
from wwwmarket.ledger.note import VerifierKey, parse_note
from wwwmarket.ledger.promises import Promises, make_evidence
from wwwmarket.ledger.proofs import consistency_nodes, inclusion_nodes
from wwwmarket.ledger.quorum import cosigner_keys
from wwwmarket.ledger.tiles import TILE_WIDTH, TileId, TileReader, tiles_holding
from wwwmarket.node.replica import Covering, Replica
from wwwmarket.ports.store import LedgerStore
from wwwmarket.rules.state import Applied

_log = logging.getLogger("wwwmarket.watching")

KeepEvidence: TypeAlias = Callable[[str, bytes], object]
"""Writes evidence under a name, once."""


class Watching:
    """``keep`` None: nothing is kept."""

    def __init__(self, replica: Replica, ledger: LedgerStore, keep: KeepEvidence | None) -> None:
        self._replica = replica
        self._ledger = ledger
        self._keep: Final = keep
        self._promises = Promises()

    def promised(self, promise: Verified[Inclusion]) -> None:
        self._promises.promised(promise.signed)

    def applied(self, applied: Sequence[Applied]) -> None:
        """Entries, as the operator's stream brings them."""
        operator = self._replica.state.operator
        for one in applied:
            self._promises.applied(one.index, one.checked.id, one.checked.account, one.checked.body, operator)

    async def covered(self, note: bytes, covering: Covering) -> None:
        """A checkpoint by the operator, of the entries that are here."""
        for breach in self._promises.covered(covering.size):
            leaves = [(await self._ledger.read(index, index + 1))[0] for index in breach.indices]
            nodes = [node for index in breach.indices for node in inclusion_nodes(index, covering.size)]
            node = await self._reader(covering, nodes)
            self._accuse(make_evidence(breach, note, covering.size, leaves, node))

    async def contradicted(self, note: bytes) -> None:
        """The operator has signed a checkpoint of other entries than it sent: what it signed before may show it.

        Who cosigned both sides is shown too.
        """
        try:
            latest, covering = self._replica.covered
        except Unavailable:
            return
        size = parse_checkpoint(parse_note(note).text).size
        if size > covering.size:
            return
        node = await self._reader(covering, [*peaks_of(0, size), *consistency_nodes(size, covering.size)])
        signers: list[VerifierKey] = [self._replica.log, *cosigner_keys(self._replica.judges)]
        final = self._replica.final
        mine = final.note if final is not None and final.checkpoint == latest.checkpoint else latest.note
        for signer in signers:
            self._accuse(make_fork(signer, [note, mine], node))

    def forked(self, first: bytes, second: bytes) -> None:
        """Two entries for one place in a chain."""
        self._accuse(ForkedChain(first=first.decode(), second=second.decode()))

    def _accuse(self, evidence: LogEvidence) -> None:
        try:
            guilt = judge(evidence)
        except Refusal:
            return
        _log.error("evidence is kept: %s", guilt.message)
        if self._keep is not None:
            self._keep(name_of(evidence), canonical.encode(evidence))

    async def _reader(self, covering: Covering, nodes: Sequence[tuple[int, int]]) -> NodeReader:
        partial = {tile.id: tile.hashes for tile in covering.partial}
        tiles: dict[TileId, bytes] = {}
        for name in tiles_holding(nodes, covering.size):
            hashes = partial.get(name) if name.width < TILE_WIDTH else await self._ledger.tile(name.level, name.number)
            assert hashes is not None, "a covered tree has its tiles"
            tiles[name] = hashes
        return TileReader(covering.size, tiles.__getitem__)
