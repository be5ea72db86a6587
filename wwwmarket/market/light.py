"""What a light client believes: one entry, or one balance, from one file and a policy, without a copy of the ledger.

A proof file (``ledger.proof_file``) carries in its extra data the entry itself, or a ``BalanceProof``. It proves that
if

1. it has the form of a proof,
2. the policy believes its checkpoint: signed by a log it knows, cosigned by its quorum,
3. its extra data is an entry, or a proof of a balance with a mark in it,
4. that entry stands at its index under the checkpoint,
5. is the canonical bytes of a known kind, signed by its author, as is what is signed inside;

and of a balance, if also

6. the entry is the log's own mark, and the last one under the checkpoint,
7. and the account's row leads to the state's root that the mark states.

Under a quorum nobody has to be believed alone: of those who cosigned, an honest one has replayed the ledger up to here.
Without witnesses in the policy it is the operator's word. Old proofs stay true of their time: see ``as_of_ms``.
"""

from typing import Literal

import msgspec

from wwwmarket.crypto import canonical
from wwwmarket.crypto.signing import open_entry
from wwwmarket.domain.book import Account
from wwwmarket.domain.errors import Malformed
from wwwmarket.domain.identity import AccountId, Digest, EntryId
from wwwmarket.domain.quantity import Count, Millis
from wwwmarket.domain.records import Body, Mark
from wwwmarket.domain.shape import Value
from wwwmarket.ledger.checkpoint import VerifiedCheckpoint
from wwwmarket.ledger.policy import Policy
from wwwmarket.ledger.proof_file import EXTRA_BYTES_MAX, ProofFile, parse_proof_file, verify_proof_file
from wwwmarket.rules.balance import BalanceProof, verify_balance
from wwwmarket.rules.check import Checked, check


class Cosignature(Value):
    """``at_s`` is when the witness says that it cosigned, in seconds since 1970."""

    witness: str
    at_s: Count


class ProvenBalance(Value):
    """What the account had when ledger time was moved to ``as_of_ms``, before what fell due then."""

    account: AccountId
    balance: Account
    as_of_ms: Millis


class Proven(Value):
    """What follows from a proof file. ``entry`` and what is said of it is the mark, where a balance is proven."""

    proves: Literal["entry", "balance"]
    log: str
    checkpoint_size: Count
    checkpoint_root: Digest
    index: Count
    entry: EntryId
    author: AccountId
    body: Body
    balance: ProvenBalance | None
    quorum: str | None
    """The policy's name for it; None where the policy asks for no witness."""
    cosignatures: tuple[Cosignature, ...]


class _Kind(msgspec.Struct):
    kind: str | None = None


def verify_file(data: bytes, policy: Policy) -> Proven:
    """Judge a proof file by a policy, by the numbers above.

    Raises:
        TooLarge, Malformed: not a proof, or it does not show what it claims.
        Unauthorised: the policy does not believe its checkpoint, or a signature is not its signer's.
    """
    file = parse_proof_file(data)  # 1
    opened = policy.accept(file.note)  # 2
    claim = _read_claim(file)  # 3
    leaf = file.extra if claim is None else claim.mark.encode()
    verify_proof_file(file, leaf, opened.checkpoint)  # 4
    checked = check(open_entry(leaf))  # 5
    balance = None if claim is None else _prove(claim, checked, file, opened, policy)
    cosigned = {each.by: each.timestamp_s or 0 for each in opened.cosignatures}
    return Proven(
        proves="entry" if balance is None else "balance",
        log=opened.checkpoint.origin,
        checkpoint_size=opened.checkpoint.size,
        checkpoint_root=Digest(opened.checkpoint.root.hex()),
        index=file.index,
        entry=checked.id,
        author=checked.account,
        body=checked.body,
        balance=balance,
        quorum=None if policy.quorum is None else policy.quorum.decode("utf-8", "backslashreplace"),
        cosignatures=tuple(Cosignature(witness=key.name, at_s=cosigned[key]) for key in policy.cosigners(opened)),
    )


def _read_claim(file: ProofFile) -> BalanceProof | None:
    """The claim about a balance; None: the extra data is an entry. Raises Malformed."""
    if not file.extra:
        raise Malformed("this proof does not carry its entry, so it says nothing that could be shown")
    try:
        kind = msgspec.json.decode(file.extra, type=_Kind).kind
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Malformed("the extra data of this proof is neither an entry nor the proof of a balance") from None
    return None if kind is None else canonical.decode(file.extra, BalanceProof, bytes_max=EXTRA_BYTES_MAX)


def _prove(
    claim: BalanceProof, mark: Checked, file: ProofFile, opened: VerifiedCheckpoint, policy: Policy
) -> ProvenBalance:
    """Checks 6 and 7."""
    body, checkpoint = mark.body, opened.checkpoint
    own = {log.account for log in policy.logs if log.name == checkpoint.origin}
    if not isinstance(body, Mark) or mark.account not in own:
        raise Malformed("a balance is proven from a mark by the log's own key", reason="bad_proof")
    if file.index != checkpoint.size - 1:
        raise Malformed("a balance is proven from the last mark under the checkpoint", reason="bad_proof")
    verify_balance(claim, body.state_root)
    return ProvenBalance(account=claim.account, balance=claim.balance or Account(), as_of_ms=body.at_ms)
