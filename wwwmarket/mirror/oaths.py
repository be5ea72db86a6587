"""When a log changes hands: to what a mirror may swear, and whose word it takes for it.

Two quorums share an honest mirror. It swears to the tree that it cosigned last, and cosigns nothing of the old name
after it; so whatever was or becomes final under that name is the beginning of the sworn tree. And it swears once, so no
two successors have a quorum either.
"""

from wwwmarket.crypto.signing import verify_certified
from wwwmarket.domain.book import Governance
from wwwmarket.domain.errors import Conflict, Forbidden
from wwwmarket.domain.identity import AccountId
from wwwmarket.domain.records import Certified, Succession
from wwwmarket.ledger.checkpoint import Checkpoint


def check_oath(
    succession: Succession, sworn: Succession | None, cosigned: Checkpoint, governance: Governance, cosigner: AccountId
) -> None:
    """Whether a mirror may swear to ``succession``; ``sworn`` is its oath so far, ``cosigned`` its last checkpoint.

    Raises:
        Conflict: it has sworn to another successor (``succeeded``), cosigned another tree last than the one that the
            succession begins from (``other_tree``), or the committee's decrees are counted otherwise.
        Forbidden: it is not in office in that log (``not_member``).
    """
    if sworn not in {None, succession}:
        assert sworn is not None
        raise Conflict(f"this mirror has sworn that {sworn.successor} follows this log", reason="succeeded")
    if (cosigned.origin, cosigned.size, cosigned.root.hex()) != (succession.origin, succession.size, succession.root):
        raise Conflict(
            f"this mirror cosigned {cosigned.size} entries of {cosigned.origin} last, with the root "
            f"{cosigned.root.hex()}: let it catch up, or propose a succession from there",
            reason="other_tree",
        )
    if succession.number != governance.decrees:
        raise Conflict(f"the next decree is number {governance.decrees}", reason="other_number")
    if all(member.cosigner != cosigner for member in governance.committee.members):
        raise Forbidden("this mirror is not of the committee in office", reason="not_member")


def check_quorum_of(certified: Certified[Succession], governance: Governance) -> None:
    """Raises Malformed, Unauthorised; Forbidden: no quorum of the committee in office has signed it (``no_quorum``)."""
    committee = governance.committee
    signers = verify_certified(certified) & {member.account for member in committee.members}
    if not 0 < committee.quorum <= len(signers):
        raise Forbidden(f"{len(signers)} of the committee have signed that succession", reason="no_quorum")
