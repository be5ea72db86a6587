"""What a database says went wrong, as refusals that say what to do about it."""

import sqlite3
from typing import Final

from sqlalchemy.exc import DatabaseError, IntegrityError

from wwwmarket.domain.errors import Conflict, Malformed, Refusal, Unavailable

RETRY_MS: Final = 1_000
_TOLD_MAX: Final = 300
_UNSOUND: Final = ("malformed", "not a database", "corrupt", "unsupported file format")


def unsound(what: str, why: object) -> Malformed:
    return Malformed(
        f"{what} is damaged ({why}). Stop the node, keep the file for inquiry, and restore a copy; or move it away "
        "with its -wal file, and the node fetches the ledger again from its peers",
        reason="damaged_database",
    )


def refusal(error: DatabaseError, what: str) -> Refusal:
    """The refusal for a fault of the database named ``what``."""
    if isinstance(error, IntegrityError):
        return Conflict(f"{what} holds another value under the same name ({error.orig})")
    if isinstance(error.orig, sqlite3.Error):
        if any(word in str(error.orig) for word in _UNSOUND):
            return unsound(what, error.orig)
        return Unavailable(f"{what} cannot be used ({error.orig})", retry_after_ms=RETRY_MS)
    told = " ".join(str(error.orig).split())[:_TOLD_MAX]
    return Unavailable(
        f"{what} cannot be used ({told}): check that its server runs, and that this user may use it",
        retry_after_ms=RETRY_MS,
    )
