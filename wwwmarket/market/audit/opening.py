"""What can be said of an entry without the state, checks 6 and 8: the costly half of an audit, in any process."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias

from wwwmarket.crypto.signing import open_entry
from wwwmarket.domain.errors import Malformed, Unauthorised
from wwwmarket.domain.identity import AccountId
from wwwmarket.ledger.bundles import decode_bundle
from wwwmarket.market.audit.findings import Check
from wwwmarket.rules.check import Checked, check


class Fault(NamedTuple):
    """Why an entry cannot be read, and whose it says it is."""

    check: Check
    message: str
    account: AccountId | None = None


Opened: TypeAlias = tuple[Checked | Fault, ...]
"""What was made of a bundle's entries, in their order."""


class Opener(Protocol):
    """Opens bundles apart, several at once: ``ahead`` of them are given before the first is asked back."""

    @property
    def ahead(self) -> int: ...

    def submit(self, content: bytes, width: int) -> Callable[[], Opened | None]:
        """Begin; the answer is what ``open_bundle`` makes of it, or None: not opened here."""
        ...


class Here:
    """The opener that opens nothing ahead: the auditor does it in its own time."""

    ahead = 0

    def submit(self, content: bytes, width: int) -> Callable[[], None]:  # noqa: ARG002 - an opener's shape
        return lambda: None


def open_bundle(content: bytes, width: int) -> Opened | None:
    """Every entry of a bundle; None where it is not one."""
    try:
        return tuple(map(open_leaf, decode_bundle(content, width=width)))
    except Malformed:
        return None


def open_leaf(leaf: bytes) -> Checked | Fault:
    """Read an entry, and verify every signature on it and in it."""
    try:
        verified = open_entry(leaf)
    except (Malformed, Unauthorised) as refusal:
        return Fault(Check.ENTRY, refusal.message)
    try:
        return check(verified)
    except Malformed as refusal:
        return Fault(Check.ENTRY, refusal.message, verified.entry.account)
    except Unauthorised as refusal:
        return Fault(Check.NESTED, refusal.message, verified.entry.account)
