"""Two sources of one log held against each other: what agrees, what is proven of a split view, what is nobody's fault."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.audit.logs import SIGNER, FilesLog, edited, log_files, long_story
from tests.unit.mirror.test_succession import certified, governed, succeeded, succession
from tests.unit.mirror.world import COMMITTEE, NAMES
from tests.unit.rules.world import NOW, RIVAL, STRANGER, key
from wwwmarket.domain.committee import Committee
from wwwmarket.domain.errors import Unauthorised, Unavailable
from wwwmarket.domain.records import Transfer
from wwwmarket.ledger.checkpoint import cosign_checkpoint, open_checkpoint, with_cosignatures
from wwwmarket.ledger.evidence import judge
from wwwmarket.ledger.note import Cosigner, Signer
from wwwmarket.market.audit import Copy, Shown, compare

LEAVES = long_story(600).leaves
SIZES = st.integers(2, len(LEAVES))
KEYS = [SIGNER.verifier]
NOBODY = Committee()


def files(size: int, forked_at: int | None = None, signer: Signer = SIGNER) -> dict[str, bytes]:
    """The log's first entries, of which one is another where it is forked."""
    leaves = LEAVES[:size]
    if forked_at is not None:
        leaves[forked_at] = edited(LEAVES[forked_at], lambda _: Transfer(to=RIVAL.account, amount_micro=2))
    return log_files(leaves, signer)


def held(mine: dict[str, bytes], theirs: dict[str, bytes], keys=KEYS, committee: Committee = NOBODY) -> Copy:
    return compare(Shown(mine["checkpoint"], FilesLog(mine)), FilesLog(theirs), keys, committee)


@given(SIZES, SIZES)
def test_of_one_log_any_two_sizes_agree(one, other):
    """Whichever of them was audited."""
    copy = held(files(one), files(other))
    assert (copy.verdict, copy.size, copy.evidence) == ("agrees", other, ())


@settings(max_examples=30)
@given(SIZES, SIZES, st.data())
def test_a_split_view_is_proven_from_its_first_entry_on(one, other, data):
    """By both checkpoints against the log, wherever it split, and to whomever it showed more."""
    at = data.draw(st.integers(1, min(one, other) - 1))
    for mine, theirs in ((files(one), files(other, at)), (files(one, at), files(other))):
        copy = held(mine, theirs)
        assert (copy.verdict, copy.size) == ("differs", other)
        assert [judge(each).fault for each in copy.evidence] == ["log_forked"]


def test_few_files_are_read():
    """The checkpoint, and the tiles on the way to one root in another."""
    read: list[str] = []

    class Counted(FilesLog):
        def read(self, path, *, bytes_max):
            read.append(path)
            return super().read(path, bytes_max=bytes_max)

    mine, theirs = files(300), files(600)
    compare(Shown(mine["checkpoint"], Counted(mine)), Counted(theirs), KEYS, NOBODY)
    assert len(read) < 8
    assert not any("entries" in path for path in read)


def test_a_mirror_that_cosigned_both_sides_is_proven_too():
    """By the keys of the committee, each for itself."""
    sides = [files(600), files(500, 400)]
    for side, names in zip(sides, (NAMES[:3], NAMES[2:]), strict=True):
        checkpoint = open_checkpoint(side["checkpoint"], SIGNER.verifier)
        lines = [cosign_checkpoint(Cosigner(name, key(name)), checkpoint, timestamp_s=NOW // 1_000) for name in names]
        side["checkpoint"] = with_cosignatures(checkpoint.note, lines)
    guilts = [judge(each) for each in held(*sides, committee=COMMITTEE).evidence]
    assert [(each.fault, each.name) for each in guilts] == [
        ("log_forked", SIGNER.verifier.name),
        ("mirror_cosigned_both", NAMES[2]),
    ]


@pytest.mark.parametrize("missing", [True, False])
def test_tiles_that_do_not_show_what_is_signed_are_a_fault(missing):
    """They are missing, or another tree's: the source's own signature covers what it cannot show."""
    theirs = files(600)
    for path in [path for path in theirs if path.startswith("tile/0/")]:
        if missing:
            del theirs[path]
        else:
            theirs[path] = files(600, 290)[path]
    assert held(files(300), theirs).verdict == "unproven"


def test_what_another_key_signed_is_another_log():
    """Under this name by a stranger, under another name, and what is no checkpoint at all."""
    stranger, renamed = Signer(SIGNER.verifier.name, STRANGER), Signer("test.example/other", STRANGER)
    for theirs in (files(600, signer=stranger), files(600, signer=renamed), {"checkpoint": b"none"}):
        assert held(files(600), theirs).verdict == "other_log"
    with pytest.raises(Unauthorised):
        held(files(600, signer=stranger), files(600))


def test_a_source_that_is_away_is_told_from_one_that_lies():
    """It has no checkpoint, cannot be read, or goes away between its checkpoint and its tiles."""

    class Away(FilesLog):
        def __init__(self, content, lost: str) -> None:
            super().__init__(content)
            self._lost = lost

        def read(self, path, *, bytes_max):
            if path.startswith(self._lost):
                raise Unavailable("away", retry_after_ms=1)
            return super().read(path, bytes_max=bytes_max)

    mine = files(300)
    for other in (FilesLog({}), Away(files(600), "checkpoint"), Away(files(600), "tile/")):
        assert compare(Shown(mine["checkpoint"], FilesLog(mine)), other, KEYS, NOBODY).verdict == "out_of_reach"


def test_what_never_became_final_under_a_former_name_is_nobodys_fault():
    """A copy from before a succession agrees; one that went further is superseded; the new name is known from within."""
    log = governed()
    after = succeeded(log, certified(succession(log)))
    keys = [log.signer.verifier, after.signer.verifier]
    before = log_files(log.leaves, log.signer)
    beyond = log.fork()
    beyond.mark(log.state.now_ms + 5)
    mine = log_files(after.leaves, after.signer)
    assert held(mine, before, keys).verdict == "agrees"
    assert held(mine, log_files(beyond.leaves, log.signer), keys).verdict == "superseded"
    assert held(before, mine, keys[:1]).verdict == "other_log"
