"""The audit of long logs: in order, once, in stretches, and in bounded memory."""

import time
import tracemalloc

import pytest

from tests.unit.audit.logs import (
    SIGNER,
    FilesLog,
    audit,
    audit_leaves,
    begun,
    blamed,
    log_files,
    long_story,
)
from tests.unit.rules.world import CLIENT, NOW, REGISTRY, RIVAL
from wwwmarket.domain.errors import NotFound
from wwwmarket.domain.records import Transfer
from wwwmarket.ledger.tiles import BundleId, TileId
from wwwmarket.market.audit import Auditor, BundleRead, Check, CheckpointRead, StretchRead, TileRead, follow
from wwwmarket.market.audit.findings import CONSEQUENCES_KEPT_MAX, VIOLATIONS_KEPT_MAX
from wwwmarket.market.audit.tree import SAMPLED_TILES_MAX

LONG = long_story(1_500).leaves


class CountingLog(FilesLog):
    def __init__(self, content) -> None:
        super().__init__(content)
        self.reads: list[str] = []

    def read(self, path, *, bytes_max):
        self.reads.append(path)
        return super().read(path, bytes_max=bytes_max)


@pytest.mark.parametrize("size", [1, 255, 256, 257, 512, 767, 1_024])
def test_logs_of_every_shape_pass(size):
    """Whatever the right edge of the tree looks like, every file is read once and everything is proven."""
    ledger = begun()
    while len(ledger.leaves) < size - 1:
        ledger.submit(CLIENT, Transfer(to=RIVAL.account, amount_micro=1))
    if size > 1:
        ledger.mark(NOW)
    log = CountingLog(log_files(ledger.leaves))
    auditor = Auditor(REGISTRY, SIGNER.verifier)
    list(follow(auditor, log))
    report = auditor.report()
    assert blamed(report) == ([] if size > 1 else [(11, 0)])
    assert report.checks[Check.INCLUSION - 1].examined == size
    assert sorted(log.reads) == sorted(log_files(ledger.leaves))


def test_an_audit_reads_on():
    """From one checkpoint to a later one only what is new is read, and both trees are proven to be one."""
    auditor = Auditor(REGISTRY, SIGNER.verifier)
    marks = [at + 1 for at, leaf in enumerate(LONG) if b"mark/v1" in leaf]
    for size in (marks[3], marks[4], marks[12], marks[-1]):
        log = CountingLog(log_files(LONG[:size]))
        first_new = auditor.size // 256
        list(follow(auditor, log))
        bundles = [path for path in log.reads if path.startswith("tile/entries/")]
        assert min(bundles) >= f"tile/entries/{first_new:03d}"
        assert auditor.size == size
    assert auditor.report().verdict == "pass"


def test_a_later_checkpoint_of_another_tree_is_found():
    """A log that rewrites what was read already fails check 3 when the audit reads on."""
    marks = [at + 1 for at, leaf in enumerate(LONG) if b"mark/v1" in leaf]
    auditor = Auditor(REGISTRY, SIGNER.verifier)
    list(follow(auditor, FilesLog(log_files(LONG[: marks[3]]))))
    other = long_story(1_400)
    rewritten = [*other.leaves[:10], *LONG[9 : marks[-1]]]
    list(follow(auditor, FilesLog(log_files(rewritten))))
    assert Check.ROOT in {check for check, _ in blamed(auditor.report())}


def test_a_log_that_kept_only_full_tiles_passes():
    """An old checkpoint's partial tiles and bundles may be gone once the full ones are there (tlog-tiles)."""
    mark = max(at + 1 for at, leaf in enumerate(LONG) if b"mark/v1" in leaf and at + 1 < 768)
    old, new = log_files(LONG[:mark]), log_files(LONG)
    kept = {path: data for path, data in new.items() if ".p/" not in path or path.startswith("tile/1/")}
    kept |= {path: data for path, data in old.items() if path.startswith("tile/1/")}
    assert audit({**kept, "checkpoint": old["checkpoint"]}).verdict == "pass"


def test_a_wrong_full_bundle_in_place_of_a_partial_one_is_found():
    """What stands for a partial bundle is read as strictly."""
    mark = max(at + 1 for at, leaf in enumerate(LONG) if b"mark/v1" in leaf and at + 1 < 768)
    old, new = log_files(LONG[:mark]), log_files(LONG)
    kept = {path: data for path, data in old.items() if not path.startswith("tile/entries/002")}
    kept["tile/entries/002"] = new["tile/entries/002"][:-1]
    assert blamed(audit(kept))[0][0] == Check.SIZE


def test_large_logs_are_proven_by_samples():
    """Beyond 4,096 entries as many are proven, spread from the first to the last."""
    leaves = long_story(5_000).leaves
    report = audit_leaves(leaves)
    examined = report.checks[Check.INCLUSION - 1].examined
    assert report.verdict == "pass"
    assert (SAMPLED_TILES_MAX - 1) * 256 < examined <= SAMPLED_TILES_MAX * 256 < len(leaves)


def test_memory_does_not_grow_with_the_entries():
    """Five thousand entries of the same few accounts take no more memory to audit than ten, within 1 MiB."""
    few, many = log_files(LONG[:10]), log_files(long_story(5_000).leaves)
    audit(few)  # what is imported or cached on first use is no part of it
    assert peak_bytes(many) - peak_bytes(few) < 1_048_576


def peak_bytes(files) -> int:
    tracemalloc.start()
    try:
        audit(files)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_rotten_log_does_not_fill_the_report():
    """Of many findings the first are kept, and all are counted."""
    ledger = begun()
    for _ in range(VIOLATIONS_KEPT_MAX + 50):
        ledger.force(CLIENT, Transfer(to=CLIENT.account, amount_micro=1))
        ledger.marked()
    report = audit_leaves(ledger.leaves)
    assert report.violations >= VIOLATIONS_KEPT_MAX + 50
    assert len(report.findings) <= VIOLATIONS_KEPT_MAX + CONSEQUENCES_KEPT_MAX
    assert report.checks[Check.ACCEPTED - 1].findings == VIOLATIONS_KEPT_MAX + 50


def test_findings_come_as_they_are_made():
    """Each step tells what it has found, and only that."""
    auditor = Auditor(REGISTRY, SIGNER.verifier)
    files = log_files(LONG[:10])
    bundle, tile = BundleId(number=0, width=10), TileId(level=0, number=0, width=10)
    assert auditor.step(CheckpointRead(note=files["checkpoint"])) == ()
    assert auditor.step(BundleRead(bundle=bundle, content=files["tile/entries/000.p/10"])) == ()
    (found,) = auditor.step(TileRead(tile=tile, content=bytes(320)))
    assert (found.check, found.entry) == (Check.TILES, 0)
    assert [each.check for each in auditor.step(StretchRead())] == [Check.INCLUSION, Check.MARKS]


def test_what_has_no_checkpoint_is_no_log():
    """Without a checkpoint there is nothing to audit."""
    with pytest.raises(NotFound):
        list(follow(Auditor(REGISTRY, SIGNER.verifier), FilesLog({})))


@pytest.mark.bench
def test_speed():
    """More than 500 entries a second of processor time."""
    files = log_files(long_story(5_000).leaves)
    before_s = time.process_time()
    entries = audit(files).entries
    rate = entries / (time.process_time() - before_s)
    print(f"audit: {rate:.0f} entries/s")  # noqa: T201 - it is what a bench is for
    assert rate > 500
