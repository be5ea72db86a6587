"""One hash for a whole state: rows in buckets, and a Merkle tree over the buckets (hashed as in RFC 6962, section 2.1).

A row falls into a bucket by the hash of its key, a bucket's leaf is its rows' digests in ascending order, and only
what has changed is hashed again. So the root depends on which rows there are and on nothing else: neither on the order
in which they came nor on rows that have gone.
"""

from hashlib import sha256
from typing import Final

from wwwmarket.crypto import canonical
from wwwmarket.crypto.digest import tagged
from wwwmarket.domain.identity import Digest

BUCKETS: Final = 4_096
"""At a million rows a change hashes 250 row digests and 12 nodes; an empty tree takes 64 KiB."""


class Commitment:
    def __init__(self) -> None:
        self._buckets: dict[int, dict[bytes, bytes]] = {}
        self._nodes = _empty_nodes()
        self._dirty: set[int] = set()

    def put(self, table: str, key: str, value: object | None) -> None:
        """Set, or with None remove, the row ``key`` of ``table``; ``value`` must have a canonical encoding."""
        name = sha256(f"{table}/{key}".encode("ascii")).digest()
        bucket = int.from_bytes(name[:2], "big") % BUCKETS
        rows = self._buckets.setdefault(bucket, {})
        if value is None:
            rows.pop(name, None)
        else:
            rows[name] = bytes.fromhex(tagged(f"state-{table}/v1", canonical.encode((key, value))))
        self._dirty.add(bucket)

    def root(self) -> Digest:
        changed = set()
        for bucket in self._dirty:
            self._nodes[BUCKETS + bucket] = _leaf(b"".join(sorted(self._buckets[bucket].values())))
            changed.add((BUCKETS + bucket) // 2)
        self._dirty.clear()
        while changed:
            for node in changed:
                self._nodes[node] = _node(self._nodes[2 * node], self._nodes[2 * node + 1])
            changed = {node // 2 for node in changed} - {0}
        return Digest(self._nodes[1].hex())


def _leaf(data: bytes) -> bytes:
    return sha256(b"\x00" + data).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def _empty_nodes() -> list[bytes]:
    """A complete binary tree, as a heap: node ``n`` has children ``2n`` and ``2n + 1``; the root is 1, 0 is unused."""
    nodes = [_leaf(b"")] * (2 * BUCKETS)
    level = BUCKETS // 2
    while level:
        nodes[level : 2 * level] = [_node(nodes[2 * level], nodes[2 * level])] * level
        level //= 2
    return nodes
