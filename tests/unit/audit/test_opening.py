"""Bundles opened apart: the same findings, in whatever process the signatures are verified."""

from collections.abc import Callable

import pytest

from tests.unit.audit.logs import SIGNER, FilesLog, edited, log_files, long_story, story
from tests.unit.rules.world import REGISTRY, RIVAL, STRANGER
from wwwmarket.adapters.openers import ProcessOpener
from wwwmarket.domain.errors import Unavailable
from wwwmarket.domain.records import Transfer
from wwwmarket.market.audit import Auditor, Fault, Report, follow, open_bundle
from wwwmarket.market.audit.opening import Opened

LEAVES = long_story(900).leaves
MARKS = [at + 1 for at, leaf in enumerate(LEAVES) if b"mark/v1" in leaf]


class Apart:
    """Opens ahead, in this process; ``given`` counts."""

    def __init__(self, ahead: int) -> None:
        self.ahead = ahead
        self.given = self.waiting = self.waiting_max = 0

    def submit(self, content: bytes, width: int) -> Callable[[], Opened | None]:
        self.given += 1
        self.waiting += 1
        self.waiting_max = max(self.waiting, self.waiting_max)

        def result() -> Opened | None:
            self.waiting -= 1
            return open_bundle(content, width)

        return result


def audit(leaves, opener=None, *, sizes=()) -> Report:
    auditor = Auditor(REGISTRY, SIGNER.verifier)
    for size in (*sizes, len(leaves)):
        for _ in follow(auditor, FilesLog(log_files(leaves[:size])), opener):
            pass
    return auditor.report()


def forged() -> list[bytes]:
    leaves = [*LEAVES]
    for at in (7, 300, 650):
        leaves[at] = edited(LEAVES[at], lambda _: Transfer(to=RIVAL.account, amount_micro=8))
    leaves[301] = b"nothing"
    leaves[500] = edited(LEAVES[500], lambda _: Transfer(to=RIVAL.account, amount_micro=8), STRANGER)
    return leaves


@pytest.mark.parametrize("leaves", [LEAVES, forged(), story().leaves], ids=["honest", "forged", "story"])
@pytest.mark.parametrize("ahead", [0, 1, 8])
def test_the_report_does_not_depend_on_who_opens(leaves, ahead):
    """Findings, counts and verdicts are those of an audit that opens everything itself."""
    assert audit(leaves, Apart(ahead)) == audit(leaves)


def test_no_more_is_read_ahead_than_is_allowed():
    """However long the log, only so many bundles wait."""
    opener = Apart(2)
    audit(LEAVES, opener)
    assert (opener.given, opener.waiting_max) == (-(-len(LEAVES) // 256), 3)


def test_a_bundle_that_has_grown_is_opened_from_where_it_ended():
    """A second stretch takes of a bundle only what is new in it."""
    assert audit(LEAVES, Apart(1), sizes=MARKS[2:6]) == audit(LEAVES, sizes=MARKS[2:6])


def test_what_is_no_bundle_is_left_to_the_auditor():
    """Which tells its whole entries from the rest."""
    assert open_bundle(b"\x00\x05abc", 1) is None
    (fault,) = open_bundle(b"\x00\x03abc", 1)
    assert isinstance(fault, Fault)


def test_other_processes_find_the_same():
    """In real processes, over a log with forgeries."""
    opener = ProcessOpener(2, open_bundle, first_here=1)
    try:
        assert audit(forged(), opener) == audit(forged())
    finally:
        opener.close()


def test_a_process_that_dies_is_said():
    """The audit could not run; it does not pass."""
    opener = ProcessOpener(1, open_bundle, first_here=0)
    try:
        opener.submit(b"\x00\x03abc", 1)()
        for process in opener._pool._processes.values():
            process.kill()
        with pytest.raises(Unavailable, match="died"):
            audit(LEAVES, opener)
    finally:
        opener.close()
