"""Audits put aside and taken up: the same report, and nothing hidden by a changed file."""

import json
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.audit.logs import SIGNER, FilesLog, blamed, edited, log_files, long_story
from tests.unit.rules.world import CLIENT, OPERATOR, REGISTRY, RIVAL
from wwwmarket.crypto import canonical
from wwwmarket.domain.errors import Malformed
from wwwmarket.domain.records import Mark, Transfer
from wwwmarket.ledger.note import Signer
from wwwmarket.market.audit import Auditor, follow
from wwwmarket.market.audit.saved import Saved

LEAVES = long_story(700).leaves
MARKS = [at + 1 for at, leaf in enumerate(LEAVES) if b"mark/v1" in leaf]
KEY = SIGNER.verifier


def audited(leaves, auditor: Auditor | None = None, *, save: bool = True) -> Auditor:
    auditor = Auditor(REGISTRY, KEY) if auditor is None else auditor
    if save:
        auditor.will_save()
    for _ in follow(auditor, FilesLog(log_files(leaves))):
        pass
    return auditor


@cache
def saved(size: int) -> bytes:
    data = audited(LEAVES[:size]).saved()
    assert data is not None
    return data


@pytest.mark.parametrize("size", [MARKS[0], MARKS[4], MARKS[5], MARKS[-2]])
def test_an_audit_that_goes_on_says_what_a_whole_one_says(size):
    """From wherever it was put aside, the report at the end is that of an audit from entry 0, but for what is counted by stretch."""
    gone_on = audited(LEAVES, Auditor.resume(REGISTRY, KEY, saved(size))).report()
    whole = audited(LEAVES).report()
    for report in (gone_on, whole):
        assert (report.verdict, report.entries, report.violations) == ("pass", len(LEAVES), 0)
    same = {"accounts", "awards", "transfers", "total_micro", "ledger_time_ms", "checkpoint_root", "contracts"}
    assert all(getattr(gone_on, name) == getattr(whole, name) for name in same)
    counted = {check.check: check.examined for check in whole.checks if check.check not in {1, 2, 3, 4, 5, 14, 15}}
    assert {check.check: check.examined for check in gone_on.checks if check.check in counted} == counted


def test_what_comes_after_is_not_trusted():
    """A forged entry beyond the saved audit is found, at its place."""
    forged = [*LEAVES]
    at = MARKS[3] + 2
    forged[at] = edited(LEAVES[at], lambda body: Transfer(to=RIVAL.account, amount_micro=body.amount_micro + 1))
    gone_on = audited(forged, Auditor.resume(REGISTRY, KEY, saved(MARKS[3])), save=False).report()
    assert blamed(gone_on)[0] == (6, at)


def test_what_came_before_cannot_be_rewritten():
    """A log whose audited part was changed since has another root."""
    other = edited(LEAVES[3], lambda _: Transfer(to=RIVAL.account, amount_micro=5), CLIENT)
    report = audited([*LEAVES[:3], other, *LEAVES[4:]], Auditor.resume(REGISTRY, KEY, saved(MARKS[5]))).report()
    assert 3 in {check for check, _ in blamed(report)}


def test_an_audit_with_a_violation_is_not_put_aside():
    """Nothing that was found can be left behind; nor is an audit saved that ends in no mark."""
    forged = [*LEAVES[: MARKS[2]]]
    forged[5] = edited(LEAVES[5], lambda _: Transfer(to=RIVAL.account, amount_micro=9))
    assert audited(forged).saved() is None
    assert audited(LEAVES[: MARKS[2] + 1]).saved() is None
    assert audited(LEAVES[: MARKS[2]], save=False).saved() is None


def changed(field: str, value: object) -> bytes:
    """A saved audit with one part in another's place."""
    fields = json.loads(saved(MARKS[4]))
    fields[field] = value(fields[field]) if callable(value) else value
    return canonical.encode(dict(sorted(fields.items())))


def richer(snapshot):
    snapshot["accounts"][0]["value"]["available_micro"] += 1
    return snapshot


def forgetful(snapshot):
    snapshot["chains"].pop()
    return snapshot


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        changed("log", "another.example/log+00000000+AA=="),
        changed("snapshot", richer),
        changed("snapshot", forgetful),
        changed("snapshot", lambda each: {**each, "now_ms": each["now_ms"] + 1}),
        changed("snapshot", lambda each: {**each, "size": each["size"] + 1}),
        changed("mark", LEAVES[3].decode()),
        changed("mark", LEAVES[MARKS[3] - 1].decode()),
        changed("note", json.loads(saved(MARKS[3]))["note"]),
        changed("note", lambda note: note.replace(str(MARKS[4]), str(MARKS[4] + 1), 1)),
        changed("rows", lambda rows: [rows[0][:-1] + ("1" if rows[0][-1] != "1" else "2"), *rows[1:]]),
        changed("rows", lambda rows: ["", *rows[1:]]),
        changed("rows", lambda rows: rows[1:]),
        changed("counts", {"Award": -1}),
        changed("examined", {"NOTE": -1}),
    ],
)
def test_a_changed_file_is_not_gone_on_with(data):
    """Another log, state, mark, checkpoint or tree than the log has signed is refused."""
    with pytest.raises(Malformed):
        Auditor.resume(REGISTRY, KEY, data)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_byte_of_what_is_bound_can_be_changed(data):
    """Any byte of state, tree, mark or note that is changed is refused; only the counts are the writer's word."""
    file = saved(MARKS[1])
    at = data.draw(st.integers(0, len(file) - 1))
    other = file[:at] + bytes([data.draw(st.integers(32, 126))]) + file[at + 1 :]
    try:
        auditor = Auditor.resume(REGISTRY, KEY, other)
    except Malformed:
        return
    before = Auditor.resume(REGISTRY, KEY, file)
    assert (auditor.size, auditor.state.snapshot()) == (before.size, before.state.snapshot())
    without = {
        name: getattr(canonical.decode(other, Saved, bytes_max=len(other)), name) for name in ("note", "rows", "mark")
    }
    assert without == {name: getattr(canonical.decode(file, Saved, bytes_max=len(file)), name) for name in without}


def test_a_mark_that_the_operator_did_not_sign_binds_nothing():
    """Whoever forges a file with a mark of its own has no key for it."""
    forged = edited(LEAVES[MARKS[4] - 1], lambda mark: Mark(at_ms=mark.at_ms, state_root=mark.state_root), CLIENT)
    with pytest.raises(Malformed):
        Auditor.resume(REGISTRY, KEY, changed("mark", forged.decode()))
    stranger = Signer("another.example/log", OPERATOR).verifier
    with pytest.raises(Malformed, match="not of this log"):
        Auditor.resume(REGISTRY, stranger, saved(MARKS[4]))
