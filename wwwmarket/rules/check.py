"""The costly half of following an entry: read its body, verify what is signed inside. It needs no state.

So it can run in other processes, in any order; what it makes goes to ``State.apply`` in the log's order.
"""

from typing import Final, assert_never, cast

from wwwmarket.crypto import canonical
from wwwmarket.crypto.digest import digest
from wwwmarket.crypto.signing import VerifiedEntry, verified_digest, verify, verify_certified
from wwwmarket.domain.book import AwardFacts
from wwwmarket.domain.identity import AccountId, EntryId
from wwwmarket.domain.keys import Delegation, Guard, Revocation, Rotation
from wwwmarket.domain.quantity import Count
from wwwmarket.domain.records import (
    Award,
    Body,
    Decree,
    Dispute,
    Genesis,
    Mark,
    Offer,
    Settlement,
    TabOpening,
    TabSettlement,
    Transfer,
    Withdrawal,
)
from wwwmarket.domain.shape import Value

_BODY: Final = cast("type[Body]", Body)


class Checked(Value):
    """An entry that says something, by signatures that hold. Made by ``check`` alone.

    ``facts`` come with an award; ``certifiers``, who signed it, with a decree; ``unvouched``, the names of the awards
    in it, with a tab's settlement.
    """

    id: EntryId
    account: AccountId
    seq: Count
    prev: EntryId
    body: Body
    facts: AwardFacts | None = None
    certifiers: frozenset[AccountId] | None = None
    unvouched: tuple[EntryId, ...] = ()


def check(verified: VerifiedEntry) -> Checked:
    """Read the body of an entry.

    Raises:
        Malformed: not the canonical bytes of any known body.
        Unauthorised: a signature inside it is not its signer's.
    """
    entry = verified.entry
    body = canonical.decode(bytes(entry.body), _BODY, bytes_max=canonical.ENTRY_BYTES_MAX)
    facts, certifiers = None, None
    unvouched: tuple[EntryId, ...] = ()
    match body:
        case Award():
            facts = _facts(body)
        case Settlement():
            verify(body.attestation)
            if body.receipt is not None:
                verify(body.receipt)
        case Rotation() | Delegation():
            verify(body.consent)
        case TabSettlement():
            unvouched = _unvouched(body)
        case Decree():
            certifiers = verify_certified(body.resolution)
        case (
            Genesis() | Offer() | Withdrawal() | Transfer() | Dispute() | TabOpening() | Revocation() | Guard() | Mark()
        ):
            pass
        case _:
            assert_never(body)
    return Checked(
        id=verified.id,
        account=entry.account,
        seq=entry.seq,
        prev=entry.prev,
        body=body,
        facts=facts,
        certifiers=certifiers,
        unvouched=unvouched,
    )


def _unvouched(settlement: TabSettlement) -> tuple[EntryId, ...]:
    if settlement.voucher is not None:
        verify(settlement.voucher)
    for one in settlement.unvouched:
        verify(one.award)
        verify(one.attestation)
    return tuple(EntryId(digest(one.award.body)) for one in settlement.unvouched)


def _facts(award: Award) -> AwardFacts:
    return AwardFacts(
        bid_digest=digest(award.bid),
        winner_ask_digest=verified_digest(award.winner),
        runner_up_ask_digest=None if award.runner_up is None else verified_digest(award.runner_up),
    )
