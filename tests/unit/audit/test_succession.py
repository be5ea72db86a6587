"""An audit across a change of hands: one log, two keys, and a quorum's word between them."""

from msgspec.structs import replace

from tests.unit.audit.logs import audit, blamed, log_files
from tests.unit.mirror.test_succession import SUCCESSOR, certified, governed, succeeded, succession
from tests.unit.mirror.world import LyingLog
from tests.unit.rules.world import STRANGER
from wwwmarket.domain.records import Decree
from wwwmarket.ledger.note import Signer


def test_a_log_that_changed_hands_passes_by_either_key():
    """Whoever trusts the first operator's key learns the second from the log; whoever trusts the second needs no more."""
    log = governed()
    after = succeeded(log, certified(succession(log)))
    files = log_files(after.leaves, after.signer)
    for trusted in (log.signer, after.signer):
        report = audit(files, key=trusted.verifier)
        assert report.verdict == "pass", report.findings
    assert blamed(audit(files, key=Signer("test.example/log", STRANGER).verifier)) == [(1, 0)]


def test_the_old_operator_cannot_go_on_after_it():
    """A checkpoint of all that is there by the old key is not the log's."""
    log = governed()
    after = succeeded(log, certified(succession(log)))
    assert blamed(audit(log_files(after.leaves, log.signer), key=log.signer.verifier)) == [(1, None)]


def test_a_succession_from_another_tree_is_found():
    """The quorum's statement binds the tree's root, which the audit has."""
    log = governed()
    false = certified(replace(succession(log), root="3" * 64))
    after = LyingLog(log.leaves, signer=SUCCESSOR, origin="test.example/log2")
    after.add(SUCCESSOR, Decree(resolution=false))
    assert (10, len(log.leaves)) in blamed(audit(log_files(after.leaves, after.signer), key=after.signer.verifier))
