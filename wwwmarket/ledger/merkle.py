"""The Merkle tree of RFC 6962 section 2.1 (SHA-256), as it grows at its right edge.

A node is named by ``(level, index)``: level 0 holds the leaf hashes, and node ``(level, index)`` covers the leaves
``index << level`` up to ``(index + 1) << level``. Only complete nodes have a name; the root of a tree whose size is no
power of two is folded from the complete subtrees that it consists of, its *peaks*.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Final

from wwwmarket.domain.errors import Malformed

NodeReader = Callable[[int, int], bytes]
"""Gives the hash of the complete node at ``(level, index)``."""

HASH_BYTES: Final = 32

SIZE_MAX: Final = 2**63 - 1
"""The common denominator of the tools that read our logs: Go's ``tlog`` counts in int64."""

EMPTY_ROOT: Final = sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def peaks_of(start: int, end: int) -> Iterator[tuple[int, int]]:
    """The complete nodes ``(level, index)``, from the left, that together cover the leaves ``start`` to ``end - 1``.

    ``start`` is a multiple of the smallest power of two that holds the range, as every right child's start is.
    """
    while start < end:
        level = (end - start).bit_length() - 1
        yield level, start >> level
        start += 1 << level


def fold(peaks: Sequence[bytes]) -> bytes:
    """The root over peaks given from the left; of no peaks, the root of the empty tree."""
    if not peaks:
        return EMPTY_ROOT
    root = peaks[-1]
    for peak in peaks[-2::-1]:
        root = node_hash(peak, root)
    return root


def complete_root(hashes: Sequence[bytes]) -> bytes:
    """The root over hashes of one level, whose number is a power of two."""
    assert hashes, "a subtree has leaves"
    assert len(hashes).bit_count() == 1, "a complete subtree has a power of two of leaves"
    while len(hashes) > 1:
        hashes = [node_hash(left, right) for left, right in zip(hashes[::2], hashes[1::2], strict=True)]
    return hashes[0]


class Frontier:
    """The right edge of a growing tree: its size and peaks, at most 63 hashes, and enough to append and to give roots.

    Appending costs one node hash on average and O(log n) at most; the root costs O(log n).
    """

    __slots__ = ("_peaks", "size")

    def __init__(self, size: int = 0, peaks: Iterable[bytes] = ()) -> None:
        """A frontier taken up where it was left: ``peaks`` from the left, one for each bit set in ``size``.

        Raises:
            Malformed: the peaks are not those of a tree of that size.
        """
        self.size = size
        self._peaks = list(peaks)
        if not 0 <= size <= SIZE_MAX or len(self._peaks) != size.bit_count():
            raise Malformed(f"{len(self._peaks)} peaks are not the right edge of a tree of size {size}")
        if any(len(peak) != HASH_BYTES for peak in self._peaks):
            raise Malformed(f"a peak is a hash of {HASH_BYTES} bytes")

    @classmethod
    def read(cls, size: int, node: NodeReader) -> "Frontier":
        """The right edge of the tree of ``size`` leaves whose nodes ``node`` reads."""
        return cls(size, (node(level, index) for level, index in peaks_of(0, size)))

    @property
    def peaks(self) -> tuple[bytes, ...]:
        return tuple(self._peaks)

    def append(self, leaf: bytes) -> list[bytes]:
        """Add a leaf hash; gives the nodes it completes: at place ``k``, the node ``(k, old size >> k)``."""
        assert len(leaf) == HASH_BYTES
        node = leaf
        completed = [leaf]
        carry = self.size
        while carry & 1:
            node = sha256(b"\x01" + self._peaks.pop() + node).digest()
            completed.append(node)
            carry >>= 1
        self._peaks.append(node)
        self.size += 1
        return completed

    def root(self) -> bytes:
        return fold(self._peaks)


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The root of the tree over ``leaves``, which are leaf hashes."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf)
    return frontier.root()
