"""An audit put aside: where the next one may go on, instead of at entry 0.

It is kept after a stretch without a violation, and holds the state and the right edge of the tree as they were before
the stretch's last entry, a mark. So it can be held against what the log itself has signed, and is taken up only if

1. it is of the log whose key is given;
2. its state has the root that the mark states, and takes the mark: the next of its operator's chain, by that operator;
3. its tree, with the mark, has the size and the root of its checkpoint;
4. and that checkpoint is signed by the log's key in force.

What it says of the entries before, that they passed, nobody can check without reading them: that is its writer's word.
A changed file cannot show another balance, offer or chain than the log's own signed mark does, but it could claim an
audit that never was. Whoever cannot keep it where only they write keeps its SHA-256 apart.
"""

from typing import Annotated, Final

from msgspec import Meta

from wwwmarket.crypto import canonical
from wwwmarket.domain.errors import Malformed
from wwwmarket.domain.quantity import Count
from wwwmarket.domain.records import Leaf, Mark
from wwwmarket.domain.shape import Record
from wwwmarket.ledger.tiles import TILE_LEVELS, TILE_WIDTH
from wwwmarket.market.audit.opening import Fault, open_leaf
from wwwmarket.rules.check import Checked

SAVED_BYTES_MAX: Final = 2**32
"""A state of some ten million rows; what is larger is no state of ours."""

_Row = Annotated[str, Meta(pattern=r"^[0-9a-f]*\Z", max_length=TILE_WIDTH * 64)]


class Saved(Record, tag="audit-state/v1"):
    """``rows`` are the hashes of the partial tiles, in hex, from below; ``snapshot`` is a ``snapshot/v1``.

    ``counts`` and ``examined``, by the names of kinds and checks, are for the report's totals alone.
    """

    log: str
    note: str
    mark: Leaf
    rows: Annotated[tuple[_Row, ...], Meta(min_length=TILE_LEVELS, max_length=TILE_LEVELS)]
    snapshot: canonical.Raw
    counts: dict[str, Count]
    examined: dict[str, Count]


def read_mark(saved: Saved) -> Checked:
    """The mark it was put aside at, signed by its author. Raises Malformed."""
    opened = open_leaf(saved.mark.encode())
    if isinstance(opened, Fault) or not isinstance(opened.body, Mark):
        raise not_taken("its last entry is no mark")
    return opened


def not_taken(why: str) -> Malformed:
    return Malformed(f"the saved audit is not of this log, or was changed ({why}): begin anew without it")
