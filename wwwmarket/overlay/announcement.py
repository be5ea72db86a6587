"""Announcements: made by the node that they speak of, believed from nobody else.

It promises that whoever hands an announcement on can only delay it: not make it, alter it, re-address it, or pass an
older one for a newer.
"""

from wwwmarket.crypto.signing import KeyPair, Verified, sign, verify
from wwwmarket.domain.errors import Forbidden, Stale
from wwwmarket.domain.identity import AccountId
from wwwmarket.domain.quantity import Millis
from wwwmarket.domain.records import Signed
from wwwmarket.overlay.params import OverlayParams
from wwwmarket.overlay.records import Announcement


def announce(key: KeyPair, said: Announcement) -> Verified[Announcement]:
    assert AccountId(said.address.node) == key.account, "a node announces itself"
    return sign(key, said)


def accept(signed: Signed[Announcement], at_ms: Millis, params: OverlayParams) -> Verified[Announcement]:
    """An announcement that may be believed and handed on. Cheap checks come before the dear one:

    1. It speaks of its signer: nobody announces or re-addresses another.
    2. It is not from the future, by more than clocks differ: nobody reserves a sequence number that never ages.
    3. It is not older than ``age_max_ms``: what was heard long ago cannot be told again.
    4. The signature is valid.

    That it is newer than what is held is the fifth check, and ``supersedes``.

    Raises:
        Forbidden: check 1.
        Stale: checks 2 and 3.
        Unauthorised: check 4.
    """
    said = signed.body
    if AccountId(said.address.node) != signed.signer:
        raise Forbidden("an announcement speaks of another node than its signer")
    if said.issued_ms > at_ms + params.skew_max_ms:
        raise Stale("an announcement from the future")
    if is_expired(said, at_ms, params):
        raise Stale("an announcement too old to be told again")
    return verify(signed)


def is_expired(said: Announcement, at_ms: Millis, params: OverlayParams) -> bool:
    return said.issued_ms + params.age_max_ms < at_ms


def supersedes(new: Signed[Announcement], held: Signed[Announcement]) -> bool:
    """Whether ``new`` is the later word. Of two with one sequence number the same wins everywhere, in any order."""
    return (new.body.issued_ms, new.signature) > (held.body.issued_ms, held.signature)
