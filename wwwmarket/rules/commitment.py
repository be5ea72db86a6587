"""One hash for a whole state: rows in buckets, and a Merkle tree over the buckets (hashed as in RFC 6962, section 2.1).

A row falls into a bucket by the hash of its key, its name; a bucket's leaf is its rows, each a name and a digest, in
ascending order of names; and only what has changed is hashed again. So the root depends on which rows there are and on
nothing else: neither on the order in which they came nor on rows that have gone.

A bucket's names also say which rows there are not. So with the hashes beside its path a bucket proves what a row is, or
that there is none.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from wwwmarket.crypto import canonical
from wwwmarket.crypto.digest import tagged
from wwwmarket.domain.identity import Digest

BUCKETS: Final = 4_096
"""At a million rows a change hashes 250 rows and 12 nodes; an empty tree takes 64 KiB."""
PATH_HASHES: Final = BUCKETS.bit_length() - 1
HASH_BYTES: Final = 32


class Change(NamedTuple):
    """What a tree was before later writes: the nodes and buckets that these changed."""

    nodes: dict[int, bytes]
    buckets: dict[int, dict[bytes, bytes]]


class BucketProof(NamedTuple):
    """A bucket's rows as ``name || digest``, joined, and the hashes beside its path, from its sibling upwards."""

    rows: bytes
    path: tuple[bytes, ...]


class Commitment:
    """``remembers``: what was can still be proven, by the changes since."""

    def __init__(self, *, remembers: bool = False) -> None:
        self._buckets: dict[int, dict[bytes, bytes]] = {}
        self._nodes = _empty_nodes()
        self._dirty: set[int] = set()
        self._change: Change | None = Change({}, {}) if remembers else None

    def put(self, table: str, key: str, value: object | None) -> None:
        """Set, or with None remove, the row ``key`` of ``table``; ``value`` must have a canonical encoding."""
        name = row_name(table, key)
        bucket = bucket_of(name)
        rows = self._buckets.setdefault(bucket, {})
        if self._change is not None and bucket not in self._change.buckets:
            self._change.buckets[bucket] = rows.copy()
        if value is None:
            rows.pop(name, None)
        else:
            rows[name] = row_digest(table, key, value)
        self._dirty.add(bucket)

    def root(self) -> Digest:
        nodes = self._nodes
        changed = {BUCKETS + bucket for bucket in self._dirty}
        self._remember(changed)
        for node in changed:
            nodes[node] = sha256(b"\x00" + _rows(self._buckets[node - BUCKETS])).digest()
        self._dirty.clear()
        while changed:
            changed = {node // 2 for node in changed} - {0}
            self._remember(changed)
            for node in changed:  # spelt out: the audit's costliest loop after the signatures
                nodes[node] = sha256(b"\x01" + nodes[2 * node] + nodes[2 * node + 1]).digest()
        return Digest(nodes[1].hex())

    def _remember(self, changing: set[int]) -> None:
        if self._change is not None:
            for node in changing:
                self._change.nodes.setdefault(node, self._nodes[node])

    def cut(self) -> Change:
        """What has changed since the last cut, as it was; later changes are remembered apart."""
        assert self._change is not None, "a commitment that does not remember"
        assert not self._dirty, "what is written is hashed first"
        change, self._change = self._change, Change({}, {})
        return change

    def prove(self, table: str, key: str, undone: Sequence[Change] = ()) -> BucketProof:
        """The bucket in which the row is or would be, as it was before ``undone`` and what changed since the last cut.

        ``undone`` is in the order in which the changes came.
        """
        assert self._change is not None, "a commitment that does not remember"
        bucket = bucket_of(row_name(table, key))
        changes = (*undone, self._change)
        rows = next((change.buckets[bucket] for change in changes if bucket in change.buckets), None)
        if rows is None:
            rows = self._buckets.get(bucket, {})
        path, node = [], BUCKETS + bucket
        while node > 1:
            beside = node ^ 1
            hashed = next((change.nodes[beside] for change in changes if beside in change.nodes), None)
            path.append(self._nodes[beside] if hashed is None else hashed)
            node //= 2
        return BucketProof(_rows(rows), tuple(path))


def root_of_bucket(bucket: int, proof: BucketProof) -> Digest:
    """The root to which a bucket's rows lead by the hashes beside its path, which must be ``PATH_HASHES``."""
    hashed, node = _leaf(proof.rows), BUCKETS + bucket
    for beside in proof.path:
        hashed = _node(beside, hashed) if node & 1 else _node(hashed, beside)
        node //= 2
    return Digest(hashed.hex())


def row_name(table: str, key: str) -> bytes:
    return sha256(f"{table}/{key}".encode("ascii")).digest()


def row_digest(table: str, key: str, value: object) -> bytes:
    return bytes.fromhex(tagged(f"state-{table}/v1", canonical.encode((key, value))))


def bucket_of(name: bytes) -> int:
    return int.from_bytes(name[:2], "big") % BUCKETS


def _rows(rows: dict[bytes, bytes]) -> bytes:
    return b"".join([name + rows[name] for name in sorted(rows)])


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
