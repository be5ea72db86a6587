"""What an account had at a mark, proven from the state root that the mark states: for readers who replay nothing.

A ``BalanceProof`` shows

1. as many hashes as a bucket's path has,
2. rows of a name and a digest each, in ascending order of names,
3. which lead to the root,
4. and among which the account's row is the one claimed, or is not where nothing is claimed.

It is worth what the root is worth: whoever believes the mark's author, or a quorum that has replayed it.
"""

from typing import Annotated, Final

from msgspec import Meta

from wwwmarket.domain.book import Account
from wwwmarket.domain.errors import Malformed, TooLarge
from wwwmarket.domain.identity import AccountId, Digest
from wwwmarket.domain.records import Leaf
from wwwmarket.domain.shape import Record
from wwwmarket.rules.commitment import (
    HASH_BYTES,
    PATH_HASHES,
    BucketProof,
    bucket_of,
    root_of_bucket,
    row_digest,
    row_name,
)

ROWS_MAX: Final = 4_096
"""A bucket has 250 at a million rows; only somebody who grinds keys into one bucket makes more."""

_ROW_BYTES: Final = 2 * HASH_BYTES
_TABLE: Final = "account"


class BalanceProof(Record, tag="balance-proof/v1"):
    """``balance`` None: nothing at all. ``mark`` is the entry that states the root; ``rows`` are its bucket's rows, in
    hex, and ``path`` the hashes beside the bucket's path.
    """

    account: AccountId
    balance: Account | None
    mark: Leaf
    rows: Annotated[str, Meta(max_length=ROWS_MAX * _ROW_BYTES * 2, pattern=r"^[0-9a-f]*\Z")]
    path: Annotated[tuple[Digest, ...], Meta(max_length=PATH_HASHES)]


def prove_balance(account: AccountId, balance: Account | None, mark: Leaf, bucket: BucketProof) -> BalanceProof:
    """Raises TooLarge: its bucket has more rows than a proof may have."""
    if len(bucket.rows) > ROWS_MAX * _ROW_BYTES:
        raise TooLarge(f"this account's bucket of the state has more than {ROWS_MAX} rows, and no proof has so many")
    path = tuple(Digest(each.hex()) for each in bucket.path)
    return BalanceProof(account=account, balance=balance, mark=mark, rows=bucket.rows.hex(), path=path)


def verify_balance(proof: BalanceProof, root: Digest) -> None:
    """Check a proof against the root of a state, by the numbers above. Raises Malformed: it does not show it."""
    if len(proof.path) != PATH_HASHES:  # 1
        raise _refused(f"the path to a state's root has {PATH_HASHES} hashes, not {len(proof.path)}")
    if len(proof.rows) % (2 * _ROW_BYTES):
        raise _refused(f"a row of a bucket has {_ROW_BYTES} bytes")
    rows = bytes.fromhex(proof.rows)
    places = range(0, len(rows), _ROW_BYTES)
    held = {rows[at : at + HASH_BYTES]: rows[at + HASH_BYTES : at + _ROW_BYTES] for at in places}
    if list(held) != sorted(held) or len(held) < len(places):  # 2
        raise _refused("the rows of a bucket ascend, each once")
    name = row_name(_TABLE, proof.account)
    path = tuple(bytes.fromhex(each) for each in proof.path)
    if root_of_bucket(bucket_of(name), BucketProof(rows, path)) != root:  # 3
        raise _refused("the rows do not lead to the state's root")
    expected = None if proof.balance is None else row_digest(_TABLE, proof.account, proof.balance)
    if held.get(name) != expected:  # 4
        raise _refused("the state does not have this balance for this account")


def _refused(message: str) -> Malformed:
    return Malformed(message, reason="bad_proof")
