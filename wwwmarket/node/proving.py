"""Proofs for light clients: files that anyone with the ledger's policy can check offline (``market.light``)."""

from typing import Final

from wwwmarket.crypto import canonical
from wwwmarket.domain.errors import NotFound, TooLarge, Unavailable
from wwwmarket.domain.identity import AccountId
from wwwmarket.domain.quantity import Count
from wwwmarket.ledger.checkpoint import VerifiedCheckpoint
from wwwmarket.ledger.merkle import HASH_BYTES
from wwwmarket.ledger.proof_file import EXTRA_BYTES_MAX, ProofFile, encode_proof_file
from wwwmarket.ledger.proofs import inclusion_nodes, inclusion_proof
from wwwmarket.ledger.tiles import TileId, TileReader, tiles_holding
from wwwmarket.node.replica import Replica
from wwwmarket.ports.store import LedgerStore
from wwwmarket.rules.balance import prove_balance

_RETRY_MS: Final = 1_000


class Proving:
    """Over a replica, and the store that holds its tiles."""

    def __init__(self, replica: Replica, ledger: LedgerStore) -> None:
        self._replica = replica
        self._ledger = ledger

    async def entry(self, index: Count) -> bytes:
        """A file that proves the entry.

        Raises:
            NotFound: there is no such entry.
            Unavailable: nothing that proofs lead to covers it yet.
        """
        proving = self._replica.proving
        if index >= self._replica.size:
            raise NotFound(f"the ledger has {self._replica.size} entries; there is no entry {index}", param="index")
        if index >= proving.checkpoint.size:
            raise Unavailable("this entry is not final yet; ask again", retry_after_ms=_RETRY_MS, reason="pending")
        return await self._file(proving, index, await self._leaf(index))

    async def account(self, account: AccountId) -> bytes:
        """A file that proves what the account has, or that it has nothing, as of the latest checkpoint to prove from.

        Raises:
            Unavailable: there is no such checkpoint yet, or its state is gone.
        """
        proving = self._replica.proving
        size = proving.checkpoint.size
        balance, bucket = self._replica.state.prove_balance(account, size)
        mark = await self._leaf(size - 1)
        claim = canonical.encode(prove_balance(account, balance, mark.decode(), bucket))
        if len(claim) > EXTRA_BYTES_MAX:
            raise TooLarge("this account's bucket of the state has more rows than a proof may have")
        return await self._file(proving, size - 1, claim)

    async def _leaf(self, index: int) -> bytes:
        leaves = await self._ledger.read(index, index + 1)
        if not leaves:
            raise Unavailable("this entry is not stored here yet; ask again", retry_after_ms=_RETRY_MS)
        return leaves[0]

    async def _file(self, proving: VerifiedCheckpoint, index: int, extra: bytes) -> bytes:
        size = proving.checkpoint.size
        tiles = {tile: await self._tile(tile) for tile in tiles_holding(inclusion_nodes(index, size), size)}
        proof = inclusion_proof(index, size, TileReader(size, tiles.__getitem__))
        return encode_proof_file(ProofFile(extra=extra, index=index, proof=proof, note=proving.note))

    async def _tile(self, tile: TileId) -> bytes:
        """Of an older checkpoint's partial tile, the beginning of what it has become."""
        length = tile.width * HASH_BYTES
        hashes = self._replica.partial_tile(tile.level, tile.number)
        if hashes is None or len(hashes) < length:  # then it is full, and was stored before its checkpoint was taken
            hashes = await self._ledger.tile(tile.level, tile.number)
        assert hashes is not None, "a covered tree has its tiles"
        return hashes[:length]
