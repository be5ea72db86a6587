"""The keys of an account: the one that owns it, those of its machines, and the one that can recover it.

An account keeps the name of its first key for ever, whatever key owns it later.
"""

from typing import Annotated, Final, Literal, TypeAlias

from msgspec import Meta

from wwwmarket.domain.identity import AccountId
from wwwmarket.domain.quantity import Millis
from wwwmarket.domain.shape import Record, Value
from wwwmarket.domain.signed import Signed

Role: TypeAlias = Literal["owner", "machine"]
"""An owner may do everything; a machine offers, asks, attests and settles, and spends nothing."""

MACHINES_MAX: Final = 64
"""Of one account: a rack or two; more is another provider."""


class Consent(Record, tag="consent/v1"):
    """A key's word that it will act for an account: without it anybody could claim another's fresh key."""

    account: AccountId
    role: Role


class Rotation(Record, tag="rotation/v1"):
    """Puts a fresh key in the place of the account's owner.

    Written by the owner it holds at once. Written by the recovery key it is announced, and holds when it is written
    again after the time in which the owner can object.
    """

    account: AccountId
    consent: Signed[Consent]


class Delegation(Record, tag="delegation/v1"):
    """Lets a fresh key act as a machine of the author's account."""

    consent: Signed[Consent]


class Revocation(Record, tag="revocation/v1"):
    """Ends a machine key of the author's account."""

    key: AccountId


class Guard(Record, tag="guard/v1"):
    """Names the key that can recover the author's account, or none; whatever recovery was announced is void."""

    recovery: AccountId | None


class Keys(Value, omit_defaults=True):
    """Who acts for an account. ``successor`` is announced by the recovery key and may be put in place from
    ``successor_from_ms`` on; ``machines`` ascend.
    """

    owner: AccountId
    machines: Annotated[tuple[AccountId, ...], Meta(max_length=MACHINES_MAX)] = ()
    recovery: AccountId | None = None
    successor: AccountId | None = None
    successor_from_ms: Millis = 0
