"""What proves, from itself alone, that who signs for a log did wrong; ``ledger.evidence`` says whether it does.

Each is small enough to be sent in a letter. Hashes are in hexadecimal, proofs lead from the leaves towards the root.
"""

from typing import Annotated, TypeAlias

from msgspec import Meta

from wwwmarket.domain.identity import Digest
from wwwmarket.domain.quantity import Count
from wwwmarket.domain.records import Certified, Inclusion, Leaf, Signed, Succession
from wwwmarket.domain.shape import Record, Value

KeyText: TypeAlias = Annotated[str, Meta(max_length=512)]
"""A verifier key (C2SP signed-note)."""
NoteText: TypeAlias = Annotated[str, Meta(max_length=65_536)]
"""A signed note; a hundred signature lines need half of this."""
ProofText: TypeAlias = Annotated[tuple[Digest, ...], Meta(max_length=128)]
"""A tree of 2^53 leaves needs no more than 107."""


class Fork(Record, tag="fork/v1"):
    """Two checkpoints by one signer, of trees of which the smaller is not the beginning of the larger.

    ``signer`` is the log's key or a cosigner's. ``first`` is the smaller one; where sizes differ, ``root`` is that of
    as many entries of the second's tree, and ``proof`` shows it (RFC 9162 section 2.1.4).
    """

    signer: KeyText
    first: NoteText
    second: NoteText
    root: Digest | None = None
    proof: ProofText = ()


class Placed(Value):
    """An entry, and the proof (RFC 9162 section 2.1.3) that it stands at ``index`` of a checkpoint's tree.

    ``leaf`` is its bytes in base64, since a log that lies may hold anything.
    """

    leaf: Annotated[bytes, Meta(max_length=65_535)]
    index: Count
    proof: ProofText


class Misordered(Record, tag="misordered/v1"):
    """A log's checkpoint, and two entries in its tree that cannot follow each other: of one account, the later one no
    later in its chain; or the operator's marks, and time goes back.
    """

    log: KeyText
    note: NoteText
    first: Placed
    second: Placed


class Unfollowed(Record, tag="unfollowed/v1"):
    """A log's checkpoint, and an entry in its tree that does not follow.

    It proves itself where the author did not sign the entry, or it is none. Else it takes a replay of the log to see
    it, and this binds the log's own signature to what is replayed.
    """

    log: KeyText
    note: NoteText
    entry: Placed


class BrokenPromise(Record, tag="broken-promise/v1"):
    """A promise of inclusion, and a checkpoint by who gave it, with entries that say that it was not kept:

    - the one entry at the promised index, another one than was promised;
    - or the last entry, a mark past the deadline, of a tree that ends before the promised index;
    - or the operator's last entry before the promised index and its next one, a mark past the deadline.
    """

    promise: Signed[Inclusion]
    note: NoteText
    entries: Annotated[tuple[Placed, ...], Meta(min_length=1, max_length=2)]


class ForkedChain(Record, tag="forked-chain/v1"):
    """Two entries by one author for one place in its chain."""

    first: Leaf
    second: Leaf


class TwoOaths(Record, tag="two-oaths/v1"):
    """Two successors of one log, sworn to by one mirror: each statement with that mirror's signature alone."""

    first: Certified[Succession]
    second: Certified[Succession]


LogEvidence: TypeAlias = Fork | Misordered | Unfollowed | BrokenPromise | ForkedChain | TwoOaths
