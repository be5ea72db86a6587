"""Policies of C2SP tlog-policy: read strictly, and believed exactly as far as they say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wwwmarket.crypto.signing import KeyPair
from wwwmarket.domain.committee import Committee, Member
from wwwmarket.domain.errors import Malformed, TooLarge, Unauthorised
from wwwmarket.ledger.checkpoint import (
    Checkpoint,
    cosign_checkpoint,
    open_checkpoint,
    sign_checkpoint,
    with_cosignatures,
)
from wwwmarket.ledger.merkle import root_of
from wwwmarket.ledger.note import Cosigner, Signer
from wwwmarket.ledger.policy import LINES_OF_A_KIND_MAX, POLICY_BYTES_MAX, parse_policy, policy_text

LOG = Signer("test.example/log", KeyPair(b"\x01" * 32))
MIRRORS = [Cosigner(f"mirror.example/{number}", KeyPair(bytes([0x10 + number]) * 32)) for number in range(6)]
CHECKPOINT = Checkpoint(origin="test.example/log", size=3, root=root_of([bytes(32)] * 3))
VKEYS = [mirror.verifier.text for mirror in MIRRORS]


def note(*cosigners: int, log: Signer = LOG) -> bytes:
    signed = sign_checkpoint(log, CHECKPOINT)
    opened = open_checkpoint(signed, log.verifier)
    return with_cosignatures(signed, [cosign_checkpoint(MIRRORS[at], opened, timestamp_s=1) for at in cosigners])


def lines(*more: str, log: Signer = LOG) -> bytes:
    witnesses = [f"witness w{at} {key}" for at, key in enumerate(VKEYS)]
    return "".join(f"{line}\n" for line in (f"log {log.verifier.text}", *witnesses, *more)).encode()


def believes(policy: bytes, signed: bytes) -> bool:
    try:
        parse_policy(policy).accept(signed)
    except Unauthorised:
        return False
    return True


@pytest.mark.parametrize(
    ("quorum", "cosigners", "believed"),
    [
        (["quorum none"], (), True),
        (["quorum w0"], (0,), True),
        (["quorum w0"], (1, 2, 3), False),
        (["group g all w0 w1", "quorum g"], (0,), False),
        (["group g all w0 w1", "quorum g"], (0, 1), True),
        (["group g any w0 w1", "quorum g"], (1,), True),
        (["group g 2 w0 w1 w2", "quorum g"], (0, 2), True),
        (["group g 2 w0 w1 w2", "quorum g"], (0, 3, 4, 5), False),
        (["group x 2 w0 w1 w2", "group y any w3 w4", "group b all x y", "quorum b"], (0, 1, 4), True),
        (["group x 2 w0 w1 w2", "group y any w3 w4", "group b all x y", "quorum b"], (0, 1, 2), False),
    ],
)
def test_a_quorum_is_met_as_its_groups_say(quorum, cosigners, believed):
    """Witnesses, thresholds and groups of groups, as in the specification's example."""
    assert believes(lines(*quorum), note(*cosigners)) is believed


@given(st.sets(st.integers(0, 3)))
def test_the_policy_of_a_committee_is_its_quorum(cosigners):
    """The policy that a market prints believes what 2f + 1 of its mirrors have cosigned, and nothing else."""
    members = tuple(
        Member(name=each.verifier.name, account=each.verifier.account, cosigner=each.verifier.account, url="http://m/1")
        for each in MIRRORS[:4]
    )
    text = policy_text(LOG.verifier, Committee(members=members), "http://node/ledger").encode()
    assert believes(text, note(*cosigners)) is (len(cosigners) >= 3)


def test_without_a_committee_the_policy_believes_the_operator():
    """No mirrors, no quorum: and the log's own signature is still asked for."""
    policy = parse_policy(policy_text(LOG.verifier, Committee()).encode())
    assert policy.accept(note()).checkpoint == CHECKPOINT
    stranger = Signer("test.example/log", KeyPair(b"\x02" * 32))
    with pytest.raises(Unauthorised):
        policy.accept(note(log=stranger))


def test_a_log_may_have_two_keys():
    """A log that changes its key is believed under either; one of another name under neither."""
    second = Signer("test.example/log", KeyPair(b"\x03" * 32))
    policy = parse_policy(f"log {LOG.verifier.text}\nlog {second.verifier.text}\nquorum none\n".encode())
    for signer in (LOG, second):
        assert policy.accept(note(log=signer)).checkpoint == CHECKPOINT
    other = parse_policy(f"log {Signer('other', KeyPair(bytes(32))).verifier.text}\nquorum none\n".encode())
    with pytest.raises(Unauthorised, match="no log called"):
        other.accept(note())


def test_a_cosignature_in_a_witness_name_must_hold():
    """A forged cosignature in the name of a known witness refuses the checkpoint; those of strangers are ignored."""
    forged = note(0).replace(b" mirror.example/0 ", b" mirror.example/1 ")
    assert not believes(lines("quorum w1"), forged)
    broken = bytearray(note(0))
    broken[-8] ^= 1
    with pytest.raises((Unauthorised, Malformed)):
        parse_policy(lines("quorum w0")).accept(bytes(broken))


def test_blanks_comments_and_any_bytes_in_names_are_allowed():
    """Tabs, blank lines, comments, URLs, and names that are no UTF-8."""
    text = b" \t\n# log a b c\n\tlog \t%b  https://log.example \nwitness \xff\xe2 %b http://w\n group g any \xff\xe2\nquorum g"
    policy = parse_policy(text % (LOG.verifier.text.encode(), VKEYS[0].encode()) + b"\t\n")
    assert policy.accept(note(0)).cosignatures
    assert policy.quorum == b"g"


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["quorum none", "quorum none"],
        ["quorum nobody"],
        ["quorum g", "group g any w0"],
        ["group g any w0", "group h any w0", "quorum g"],
        ["group g any w0 w0", "quorum g"],
        ["group g any", "quorum g"],
        ["group g 0 w0", "quorum g"],
        ["group g 2 w0", "quorum g"],
        ["group g 01 w0", "quorum g"],
        ["group g most w0", "quorum g"],
        ["group none any w0", "quorum none"],
        ["group w0 any w1", "quorum w0"],
        ["group g any none", "quorum g"],
        ["group g any g", "quorum g"],
        [f"witness w0 {VKEYS[0]}", "quorum none"],
        [f"witness again {VKEYS[0]}", "quorum none"],
        [f"witness none {Cosigner('n', KeyPair(b'n' * 32)).verifier.text}", "quorum none"],
        [f"log {LOG.verifier.text}", "quorum none"],
        [f"log {VKEYS[0]}", "quorum none"],
        [f"witness log {LOG.verifier.text}", "quorum none"],
        ["log not+a+key", "quorum none"],
        ["witnesses w0", "quorum none"],
        ["quorum none now"],
        ["quorum"],
        ["quorum none\r"],
        ["# \x7f", "quorum none"],
    ],
)
def test_what_is_no_policy_is_refused(more):
    """Names that are taken, missing or below, keys of the wrong kind, thresholds out of range, control characters."""
    with pytest.raises(Malformed):
        parse_policy(lines(*more))


def test_policies_have_limits():
    """Too many bytes, too many lines of a kind, and a last line that is cut off."""
    with pytest.raises(TooLarge):
        parse_policy(b"#" * POLICY_BYTES_MAX + b"\nquorum none\n")
    keys = [Signer(f"log{at}", KeyPair(at.to_bytes(32, "big"))).verifier.text for at in range(LINES_OF_A_KIND_MAX + 1)]
    most = "".join(f"log {key}\n" for key in keys[:-1]).encode()
    assert len(parse_policy(most + b"quorum none\n").logs) == LINES_OF_A_KIND_MAX
    with pytest.raises(TooLarge):
        parse_policy(most + f"log {keys[-1]}\nquorum none\n".encode())
    with pytest.raises(Malformed):
        parse_policy(lines("quorum none")[:-1])
