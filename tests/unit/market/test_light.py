"""What a light client believes: proof files, whole, tampered with, and out of other logs."""

from base64 import b64decode, b64encode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.unit.audit.logs import SIGNER, Forge
from tests.unit.rules.world import CLIENT, NOW, OPERATOR, REGISTRY, RIVAL, make_genesis
from wwwmarket.crypto import canonical
from wwwmarket.crypto.signing import KeyPair
from wwwmarket.domain.committee import Committee, Member
from wwwmarket.domain.errors import Malformed, Refusal, Unauthorised
from wwwmarket.domain.records import Mark, Transfer
from wwwmarket.ledger.checkpoint import (
    Checkpoint,
    cosign_checkpoint,
    open_checkpoint,
    sign_checkpoint,
    with_cosignatures,
)
from wwwmarket.ledger.merkle import Frontier, leaf_hash
from wwwmarket.ledger.note import Cosigner, NoteSignature
from wwwmarket.ledger.policy import parse_policy, policy_text
from wwwmarket.ledger.proof_file import ProofFile, encode_proof_file, parse_proof_file
from wwwmarket.ledger.proofs import inclusion_proof
from wwwmarket.market.light import verify_file
from wwwmarket.rules.balance import BalanceProof, prove_balance
from wwwmarket.rules.state import State

MIRRORS = [Cosigner(f"mirror.example/{number}", KeyPair(bytes([0x60 + number]) * 32)) for number in range(4)]
COMMITTEE = Committee(
    members=tuple(
        Member(name=each.verifier.name, account=each.verifier.account, cosigner=each.verifier.account, url="http://m/1")
        for each in MIRRORS
    )
)
POLICY = parse_policy(policy_text(SIGNER.verifier, COMMITTEE).encode())
ALONE = parse_policy(policy_text(SIGNER.verifier, Committee()).encode())
TRANSFER, MARK = 1, 2


class Log(Forge):
    """Genesis, a transfer, a mark, under a checkpoint that three of four mirrors have cosigned."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State(REGISTRY, proves=True)
        self.submit(OPERATOR, make_genesis())
        self.submit(CLIENT, Transfer(to=RIVAL.account, amount_micro=10))
        self.mark(NOW)

    def note(self, *, cosigners: int = 3) -> bytes:
        tree = Frontier()
        for leaf in self.leaves:
            tree.append(leaf_hash(leaf))
        note = sign_checkpoint(SIGNER, Checkpoint(origin=SIGNER.verifier.name, size=tree.size, root=tree.root()))
        opened = open_checkpoint(note, SIGNER.verifier)
        return with_cosignatures(note, [cosign_checkpoint(one, opened, timestamp_s=7) for one in MIRRORS[:cosigners]])

    def file(self, index: int, extra: bytes | None = None, *, cosigners: int = 3) -> ProofFile:
        tree, nodes = Frontier(), {}
        for leaf in self.leaves:
            place = tree.size
            nodes |= {(level, place >> level): node for level, node in enumerate(tree.append(leaf_hash(leaf)))}
        proof = inclusion_proof(index, tree.size, lambda level, at: nodes[level, at])
        extra = self.leaves[index] if extra is None else extra
        return ProofFile(extra=extra, index=index, proof=proof, note=self.note(cosigners=cosigners))

    def claim(self, account: str, index: int = MARK) -> BalanceProof:
        balance, bucket = self.state.prove_balance(account, len(self.leaves))
        return prove_balance(account, balance, self.leaves[index].decode(), bucket)

    def balance(self, account: str) -> ProofFile:
        return self.file(MARK, canonical.encode(self.claim(account)))


LOG = Log()
ENTRY = encode_proof_file(LOG.file(TRANSFER))
BALANCE = encode_proof_file(LOG.balance(CLIENT.account))


def test_an_entry_is_proven_from_its_file_and_a_policy():
    """What was said, by whom, where, and who cosigned it: from nothing but the two."""
    proven = verify_file(ENTRY, POLICY)
    assert (proven.proves, proven.index, proven.author) == ("entry", TRANSFER, CLIENT.account)
    assert proven.body == Transfer(to=RIVAL.account, amount_micro=10)
    assert (proven.log, proven.checkpoint_size, proven.quorum) == (SIGNER.verifier.name, 3, "committee")
    assert [(each.witness, each.at_s) for each in proven.cosignatures] == [(m.verifier.name, 7) for m in MIRRORS[:3]]


def test_a_balance_is_proven_as_of_its_mark():
    """What the account had, when; and of one without a row, that it had nothing."""
    proven = verify_file(BALANCE, POLICY)
    assert (proven.proves, proven.index, proven.balance.as_of_ms) == ("balance", MARK, NOW)
    assert proven.balance.balance.available_micro == 1_000_000 - 10
    nobody = KeyPair(b"\x70" * 32).account
    nothing = verify_file(encode_proof_file(LOG.balance(nobody)), POLICY).balance
    assert (nothing.account, nothing.balance.available_micro) == (nobody, 0)


@pytest.mark.parametrize("file", [ENTRY, BALANCE], ids=["entry", "balance"])
def test_fewer_than_the_quorum_prove_nothing(file):
    """Two cosignatures of four are not enough; where no witness is asked for, the log's signature is."""
    few = encode_proof_file(replace(parse_proof_file(file), note=LOG.note(cosigners=2)))
    with pytest.raises(Unauthorised, match="not its quorum"):
        verify_file(few, POLICY)
    assert verify_file(few, ALONE).quorum is None


@pytest.mark.parametrize("file", [ENTRY, BALANCE], ids=["entry", "balance"])
@settings(max_examples=150)
@given(data=st.data())
def test_whatever_is_changed_in_a_file_it_proves_the_same_or_nothing(file, data):
    """No byte can be changed, added or removed so that something else is proven."""
    true = verify_file(file, POLICY)
    at = data.draw(st.integers(0, len(file) - 1))
    changed = file[:at] + data.draw(st.binary(max_size=2)) + file[at + data.draw(st.integers(0, 2)) :]
    try:
        proven = verify_file(changed, POLICY)
    except Refusal:
        return
    assert replace(proven, cosignatures=()) == replace(true, cosignatures=())


def test_the_claim_inside_cannot_be_changed():
    """The balance, the account, the rows and the mark are each bound to the checkpoint."""
    claim = LOG.claim(CLIENT.account)
    richer = replace(claim.balance, available_micro=2_000_000)
    for changed in (
        replace(claim, balance=richer),
        replace(claim, balance=None),
        replace(claim, account=RIVAL.account),
        replace(claim, rows=""),
        replace(claim, path=claim.path[::-1]),
        replace(claim, mark=claim.mark.replace(str(NOW), str(NOW + 1))),
    ):
        with pytest.raises(Refusal):
            verify_file(encode_proof_file(LOG.file(MARK, canonical.encode(changed))), POLICY)


def test_only_the_logs_own_last_mark_proves_a_balance():
    """A mark that somebody else wrote, one that others follow, and what is no mark."""
    log = Log()
    claim = log.claim(CLIENT.account)
    log.submit(CLIENT, Transfer(to=RIVAL.account, amount_micro=1))
    older = encode_proof_file(log.file(MARK, canonical.encode(claim)))
    with pytest.raises(Malformed, match="last mark"):
        verify_file(older, POLICY)
    no_mark = replace(claim, mark=log.leaves[-1].decode())
    with pytest.raises(Malformed, match="own key"):
        verify_file(encode_proof_file(log.file(3, canonical.encode(no_mark))), POLICY)
    log.force(CLIENT, Mark(at_ms=NOW, state_root=log.state.root()))
    foreign = replace(claim, mark=log.leaves[-1].decode())
    with pytest.raises(Malformed, match="own key"):
        verify_file(encode_proof_file(log.file(4, canonical.encode(foreign))), POLICY)


def test_an_entry_nobody_signed_is_not_proven_by_standing_there():
    """A log that took a forged entry proves that it did, and not that its author said so."""
    log = Log()
    log.leaves.append(log.leaves[TRANSFER].replace(b'"amount_micro":10', b'"amount_micro":99'))
    with pytest.raises(Unauthorised):
        verify_file(encode_proof_file(log.file(3)), POLICY)


@pytest.mark.parametrize(
    "extra", [b"", b"\x00", b"[]", b"1", b"{}", b'{"kind":"other"}', b'{"kind":1}', b"[" * 100_000]
)
def test_extra_data_that_is_no_claim_is_refused(extra):
    """Nothing, no JSON, another kind, and brackets without an end."""
    with pytest.raises(Malformed):
        verify_file(encode_proof_file(LOG.file(TRANSFER, extra)), POLICY)


def test_ten_thousand_signatures_are_not_verified():
    """A note of more signatures than a note may have is refused before any of them costs anything."""
    line = NoteSignature(name="x", key_id=b"1234", signature=bytes(64)).line.encode()
    file = LOG.file(TRANSFER)
    with pytest.raises(Malformed, match="1 to 100"):
        verify_file(encode_proof_file(replace(file, note=file.note + line * 2_000)), POLICY)
    with pytest.raises(Malformed):
        verify_file(encode_proof_file(replace(file, note=file.note + line * 10_000)), POLICY)


def test_foreign_bytes_lead_from_the_entry_to_the_root():
    """The extra data of an entry's proof is the entry's own bytes, so any tool of the format can check the inclusion."""
    extra = ENTRY.split(b"\n")[1].removeprefix(b"extra ")
    assert b64decode(extra) == LOG.leaves[TRANSFER]
    assert b64encode(LOG.leaves[TRANSFER]) == extra
