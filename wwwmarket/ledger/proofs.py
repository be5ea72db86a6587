"""Proofs about the tree: that an entry is in it, and that it only ever grew (RFC 9162 sections 2.1.3 and 2.1.4).

Making a proof needs some complete nodes of the tree; ``*_nodes`` names them, so that a caller whose tiles lie elsewhere
can fetch them first. Verifying needs nothing but the proof: everything in it may come from a stranger.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import NewType

from wwwmarket.domain.errors import Malformed
from wwwmarket.ledger.merkle import EMPTY_ROOT, HASH_BYTES, SIZE_MAX, NodeReader, fold, node_hash, peaks_of

Proof = NewType("Proof", tuple[bytes, ...])
"""Hashes of 32 bytes, from the leaves towards the root."""

_Range = tuple[int, int]


def inclusion_proof(index: int, size: int, node: NodeReader) -> Proof:
    """That leaf ``index`` is in the tree of ``size`` leaves, read through ``node``."""
    return _read(_inclusion_ranges(index, size), node)


def inclusion_nodes(index: int, size: int) -> list[tuple[int, int]]:
    """The nodes ``(level, index)`` that ``inclusion_proof`` reads."""
    return _nodes(_inclusion_ranges(index, size))


def consistency_proof(old: int, new: int, node: NodeReader) -> Proof:
    """That the tree of ``old`` leaves is a prefix of the tree of ``new`` leaves, read through ``node``."""
    return _read(_consistency_ranges(old, new), node)


def consistency_nodes(old: int, new: int) -> list[tuple[int, int]]:
    """The nodes ``(level, index)`` that ``consistency_proof`` reads."""
    return _nodes(_consistency_ranges(old, new))


def verify_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Check that the leaf hash ``leaf`` stands at ``index`` in the tree of ``size`` leaves with this root.

    RFC 9162 section 2.1.3.2, whose letters these are.

    Raises:
        Malformed: the proof does not show it.
    """
    if not 0 <= index < size <= SIZE_MAX:  # 1. the position exists
        raise _refused(f"there is no leaf {index} in a tree of size {size}")
    _check_hashes([leaf, root, *proof])  # 2. nothing but hashes
    fn, sn, r = index, size - 1, leaf
    for p in proof:
        if sn == 0:  # 3. not longer than the path
            raise _refused("the inclusion proof is too long")
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            fn, sn = _climb(fn, sn, until=_is_odd)
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0:  # 4. not shorter than the path
        raise _refused("the inclusion proof is too short")
    if r != root:  # 5. it leads to the root
        raise _refused("the inclusion proof does not lead to the root")


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree of ``new`` leaves begins with the tree of ``old`` leaves.

    RFC 9162 section 2.1.4.2, whose letters these are. The empty tree is a prefix of every tree, by an empty proof.

    Raises:
        Malformed: the proof does not show it.
    """
    if not 0 <= old <= new <= SIZE_MAX:  # 1. growth, not shrinking
        raise _refused(f"a tree of size {new} cannot begin with one of size {old}")
    _check_hashes([old_root, new_root, *proof])  # 2. nothing but hashes
    if old in (0, new):
        _check_trivial(old, new, old_root, new_root, proof)
        return
    path = [old_root, *proof] if old.bit_count() == 1 else list(proof)
    if not proof:  # 6. a proof
        raise _refused("the consistency proof is empty")
    fn, sn = _climb(old - 1, new - 1, until=_is_even)
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:  # 7. not longer than the path
            raise _refused("the consistency proof is too long")
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            fn, sn = _climb(fn, sn, until=_is_odd)
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0:  # 8. not shorter than the path
        raise _refused("the consistency proof is too short")
    if fr != old_root:  # 9. it leads to the old root
        raise _refused("the consistency proof does not lead to the old root")
    if sr != new_root:  # 10. and to the new one
        raise _refused("the consistency proof does not lead to the new root")


def _check_trivial(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    if proof:  # 3. nothing where nothing is to be shown
        raise _refused("between an empty tree, or a tree and itself, the consistency proof is empty")
    if old == new and old_root != new_root:  # 4. one size, one root
        raise _refused(f"two different roots for one size {old}")
    if old == 0 and old_root != EMPTY_ROOT:  # 5. the empty tree has one root
        raise _refused("that is not the root of the empty tree")


def _check_hashes(hashes: Sequence[bytes]) -> None:
    if any(len(each) != HASH_BYTES for each in hashes):
        raise _refused(f"leaf hashes, roots and the parts of a proof are {HASH_BYTES} bytes long")


def _climb(fn: int, sn: int, *, until: Callable[[int], bool]) -> tuple[int, int]:
    while fn and not until(fn):
        fn, sn = fn >> 1, sn >> 1
    return fn, sn


def _is_odd(number: int) -> bool:
    return number & 1 == 1


def _is_even(number: int) -> bool:
    return number & 1 == 0


def _refused(message: str) -> Malformed:
    return Malformed(message, reason="bad_proof")


def _inclusion_ranges(index: int, size: int) -> list[_Range]:
    """The leaf ranges whose roots are the proof, from the leaf upwards (PATH of RFC 9162 section 2.1.3.1)."""
    if not 0 <= index < size <= SIZE_MAX:
        raise Malformed(f"there is no leaf {index} in a tree of size {size}")
    ranges: list[_Range] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    return ranges[::-1]


def _consistency_ranges(old: int, new: int) -> list[_Range]:
    """The leaf ranges whose roots are the proof, from below (SUBPROOF of RFC 9162 section 2.1.4.1)."""
    if not 0 <= old <= new <= SIZE_MAX:
        raise Malformed(f"a tree of size {new} cannot begin with one of size {old}")
    ranges: list[_Range] = []
    if old == 0:
        return ranges
    start, end = 0, new
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    if start:  # where it is 0, the old root itself stands there, and the verifier has it
        ranges.append((start, end))
    return ranges[::-1]


def _split(width: int) -> int:
    """The largest power of two smaller than ``width``."""
    return 1 << ((width - 1).bit_length() - 1)


def _nodes(ranges: Sequence[_Range]) -> list[tuple[int, int]]:
    return list(chain.from_iterable(peaks_of(start, end) for start, end in ranges))


def _read(ranges: Sequence[_Range], node: NodeReader) -> Proof:
    return Proof(tuple(fold(list(_read_peaks(start, end, node))) for start, end in ranges))


def _read_peaks(start: int, end: int, node: NodeReader) -> Iterator[bytes]:
    return (node(level, index) for level, index in peaks_of(start, end))
