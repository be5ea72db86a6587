"""When a checkpoint is final: a quorum of its committee has cosigned it, each member counted once."""

from wwwmarket.domain.committee import Committee, Member
from wwwmarket.domain.errors import Unauthorised
from wwwmarket.ledger.checkpoint import VerifiedCheckpoint
from wwwmarket.ledger.note import SignatureType, VerifierKey


def cosigner_key(member: Member) -> VerifierKey:
    """The key by which a member cosigns."""
    return VerifierKey(name=member.name, account=member.cosigner, type=SignatureType.COSIGNATURE)


def cosigner_keys(committee: Committee) -> list[VerifierKey]:
    return [cosigner_key(member) for member in committee.members]


def count_cosigners(checkpoint: VerifiedCheckpoint, committee: Committee) -> int:
    """How many members have cosigned, whatever the number of their signatures."""
    return len({each.by for each in checkpoint.cosignatures} & set(cosigner_keys(committee)))


def check_quorum(checkpoint: VerifiedCheckpoint, committee: Committee) -> None:
    """Raises Unauthorised when fewer than a quorum of ``committee`` have cosigned; nobody is no quorum of nobody."""
    count = count_cosigners(checkpoint, committee)
    if not 0 < committee.quorum <= count:
        raise Unauthorised(
            f"{count} of the committee have cosigned this checkpoint, and {committee.quorum or 'none'} make it final",
            reason="no_quorum",
        )
