"""Makes a node the next operator of a log, out of what a quorum of mirrors has signed and of any copy of the log."""

import asyncio
import json
from pathlib import Path
from typing import Final

from wwwmarket.adapters.log_http import HttpFiles
from wwwmarket.adapters.storage import SqlStore
from wwwmarket.bootstrap import load_or_create_key, operator_of
from wwwmarket.domain.errors import Conflict, NotFound
from wwwmarket.domain.identity import AccountId, NodeId
from wwwmarket.domain.records import Certified, NodeAddress, Succession
from wwwmarket.ledger.bundles import BUNDLE_BYTES_MAX, decode_bundle
from wwwmarket.ledger.tiles import TILE_WIDTH, BundleId, path_of
from wwwmarket.node.repair import repair, take
from wwwmarket.node.replica import Replica
from wwwmarket.node.succeeding import check_successor, keep_succession
from wwwmarket.ports.log_files import LogFiles
from wwwmarket.rules.registry import Registry

_SOCKETS: Final = "sockets.json"


def prepare(data: Path, passphrase: bytes | None, bind: str) -> tuple[AccountId, NodeAddress]:
    """The account by which the node in ``data`` will order, and where it will be; its key is made where there is none.

    It binds to ``bind`` when it runs, unless it is told otherwise: the log's nodes look for it there.
    """
    data.mkdir(parents=True, exist_ok=True)
    key = load_or_create_key(data, passphrase)
    (data / _SOCKETS).write_text(json.dumps([bind]))
    return operator_of(key).account, NodeAddress(node=NodeId(key.account), sockets=(bind,))


async def take_over(data: Path, passphrase: bytes | None, certified: Certified[Succession], copy: str) -> int:
    """Copy the log into ``data`` from ``copy``, the address of a mirror, up to where ``certified`` begins; its size.

    Everything is verified and replayed, so the copy can withhold and nothing else. Goes on where it was cut off.

    Raises:
        Conflict: the succession is to another operator, or the copy's tree is another one.
        Forbidden: it is not signed by a quorum of the committee in office there.
        NotFound, Unavailable: the copy has not all of it.
    """
    operator = operator_of(load_or_create_key(data, passphrase)).account
    succession = certified.body
    if succession.operator != operator:
        raise Conflict(f"that succession is to {succession.operator}, and the node in {data} orders as {operator}")
    store = await asyncio.to_thread(SqlStore.open, f"sqlite:///{data / 'node.db'}")
    files = HttpFiles(f"{copy.rstrip('/').removesuffix('/ledger')}/ledger")
    try:
        replica = Replica(Registry.load())
        while leaves := await store.ledger.read(replica.size, replica.size + TILE_WIDTH):
            for leaf in leaves:
                take(replica, leaf, None)
        await repair(replica, store.ledger, Published(files, succession.size))
        if replica.size != succession.size:
            raise NotFound(f"{copy} has {replica.size} entries, and the succession begins from {succession.size}")
        if replica.root.hex() != succession.root:
            raise Conflict(f"the first {succession.size} entries at {copy} are not those that the mirrors swore to")
        check_successor(certified, replica)
        await store.records.write([keep_succession(certified)])
    finally:
        await files.close()
        await store.close()
    return replica.size


class Published:
    """Implements ``node.repair.EntrySource`` for the first ``size`` entries of a log's files."""

    def __init__(self, files: LogFiles, size: int) -> None:
        self._files = files
        self._size = size

    async def read(self, start: int, end: int) -> list[bytes]:
        """The rest of the bundle that holds entry ``start``."""
        if start >= min(end, self._size):
            return []
        number = start // TILE_WIDTH
        width = min(TILE_WIDTH, self._size - number * TILE_WIDTH)
        try:
            leaves = decode_bundle(await self._bundle(BundleId(number=number, width=width)), width=width)
        except NotFound:
            full = await self._bundle(BundleId(number=number))
            leaves = decode_bundle(full, width=TILE_WIDTH)[:width]
        return leaves[start % TILE_WIDTH : end - number * TILE_WIDTH]

    async def _bundle(self, bundle: BundleId) -> bytes:
        return await self._files.read(path_of(bundle), bytes_max=BUNDLE_BYTES_MAX)
