"""When a log changes hands: what the state, which has no tree, leaves to whoever has one."""

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from wwwmarket.crypto import canonical
from wwwmarket.domain.errors import Conflict
from wwwmarket.domain.records import Body, Certified, Decree, Succession

SUCCESSIONS_BYTES_MAX: Final = 262_144
"""Some twenty changes of hands of the largest committee."""

Successions: TypeAlias = tuple[Certified[Succession], ...]


def read_successions(data: bytes) -> Successions:
    """What a node or mirror serves as ``ledger/succession``, oldest first. Raises Malformed, TooLarge."""
    return canonical.decode(data, Successions, bytes_max=SUCCESSIONS_BYTES_MAX)


def write_successions(known: Sequence[Certified[Succession]]) -> bytes:
    return canonical.encode(tuple(known))


def certified_in(body: Body) -> Certified[Succession] | None:
    """The succession that a body decrees, with its signatures, if it does."""
    if isinstance(body, Decree) and isinstance(body.resolution.body, Succession):
        return Certified(body=body.resolution.body, signatures=body.resolution.signatures)
    return None


def succession_in(body: Body) -> Succession | None:
    """The succession that a body decrees, if it does."""
    certified = certified_in(body)
    return None if certified is None else certified.body


def check_succession(body: Body, root: Callable[[], bytes]) -> None:
    """``root`` is that of the tree before the entry with this body.

    Raises:
        Conflict: it decrees a succession, which begins from another tree.
    """
    succession = succession_in(body)
    if succession is not None and succession.root != root().hex():
        raise Conflict("that succession begins from another tree", param="root", reason="other_tree")
