"""``wwwmarket audit --resume`` and ``--watch``: going on, and saying at once what was found."""

import json
import sys
from hashlib import sha256

import pytest

from tests.unit.audit.logs import SIGNER, FilesLog, edited, log_files, long_story, write
from tests.unit.rules.world import REGISTRY, RIVAL
from wwwmarket import cli
from wwwmarket.cli import auditing, copies
from wwwmarket.cli.auditing import Resumption, Watch, told
from wwwmarket.cli.copies import Copies
from wwwmarket.domain.errors import Unavailable
from wwwmarket.domain.records import Transfer
from wwwmarket.market.audit import Auditor

LEAVES = long_story(400).leaves
MARKS = [at + 1 for at, leaf in enumerate(LEAVES) if b"mark/v1" in leaf]
KEY = SIGNER.verifier


@pytest.fixture
def audit(monkeypatch, capsys):
    """Runs the command; gives its exit code, stdout and stderr."""

    def audit(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["wwwmarket", "audit", *map(str, arguments), "--processes", "1"])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return int(left.value.code or 0), *capsys.readouterr()

    return audit


def forged(size: int, at: int) -> list[bytes]:
    leaves = LEAVES[:size]
    leaves[at] = edited(LEAVES[at], lambda _: Transfer(to=RIVAL.account, amount_micro=2))
    return leaves


def test_an_audit_goes_on_where_the_last_one_ended(audit, tmp_path):
    """The first run puts aside, the second reads only what is new, and both pass."""
    kept = tmp_path / "kept"
    code, out, _ = audit(write(log_files(LEAVES[: MARKS[3]]), tmp_path / "old"), "--resume", kept, "--json")
    digest = json.loads(out)["resume_sha256"]
    assert (code, digest) == (0, sha256(kept.read_bytes()).hexdigest())
    newer = write(log_files(LEAVES), tmp_path / "new")
    code, out, err = audit(newer, "--resume", kept, "--resume-sha256", digest, "--json")
    assert (code, json.loads(out)["report"]["entries"]) == (0, len(LEAVES))
    assert f"Going on at entry {MARKS[3]}" in err
    assert json.loads(out)["resume_sha256"] != digest


def test_a_file_that_was_changed_does_not_pass(audit, tmp_path):
    """By its SHA-256 where that was kept, else by what the log itself has signed; a missing one is told from none."""
    folder, kept = write(log_files(LEAVES), tmp_path / "log"), tmp_path / "kept"
    _, out, _ = audit(folder, "--resume", kept, "--json")
    digest = json.loads(out)["resume_sha256"]
    data = kept.read_bytes()
    kept.write_bytes(data.replace(b'"examined":{"ACCEPTED":', b'"examined":{"ACCEPTED":1', 1))
    assert audit(folder, "--resume", kept)[0] == 0
    kept.write_bytes(data.replace(b'"examined":{"ACCEPTED":', b'"examined":{"ACCEPTED":1', 1))
    code, _, err = audit(folder, "--resume", kept, "--resume-sha256", digest)
    assert (code, "SHA-256" in err) == (2, True)
    kept.write_bytes(data.replace(b'"available_micro":', b'"available_micro":1', 1))
    code, _, err = audit(folder, "--resume", kept)
    assert (code, "was changed" in err) == (2, True)
    kept.unlink()
    assert audit(folder, "--resume", kept, "--resume-sha256", digest)[0] == 2


def test_what_was_found_is_not_gone_on_from(audit, tmp_path):
    """A log with a finding leaves the file as it was."""
    kept = tmp_path / "kept"
    assert audit(write(log_files(LEAVES[: MARKS[3]]), tmp_path / "old"), "--resume", kept)[0] == 0
    before = kept.read_bytes()
    bad = write(log_files(forged(len(LEAVES), MARKS[3] + 1)), tmp_path / "new")
    for _ in range(2):
        assert audit(bad, "--resume", kept)[0] == 1
    assert kept.read_bytes() == before


class Live(FilesLog):
    """A log that grows, lags or is out of reach, as it is told."""

    def __init__(self, leaves) -> None:
        self.show(leaves)

    def show(self, leaves) -> None:
        super().__init__(log_files(leaves))
        self.trouble: Unavailable | None = None

    def read(self, path: str, *, bytes_max: int) -> bytes | None:
        if self.trouble is not None:
            raise self.trouble
        return super().read(path, bytes_max=bytes_max)


def silent(done: int, total: int) -> None:
    pass


def watching(live: Live, kept=None) -> Watch:
    return Watch(Auditor(REGISTRY, KEY), live, None, Resumption(kept, None))


def test_a_watched_log_may_grow():
    """Each look takes what is new; the same checkpoint twice is nothing new."""
    live = Live(LEAVES[: MARKS[0]])
    watch = watching(live)
    for size in (MARKS[0], MARKS[0], MARKS[3], MARKS[-1]):
        live.show(LEAVES[:size])
        assert not watch.look(silent)
        assert watch.auditor.size == size


def test_the_first_finding_is_an_alarm():
    """A forged entry in what is new ends the watch, with its check and its place."""
    live = Live(LEAVES[: MARKS[1]])
    watch = watching(live)
    assert not watch.look(silent)
    live.show(forged(MARKS[2], MARKS[1] + 3))
    assert watch.look(silent)
    finding = watch.auditor.report().findings[0]
    assert told(finding).startswith(f"ALARM: check 6: entry {MARKS[1] + 3}: ")


def test_a_rewritten_log_is_an_alarm():
    """Another root for what was audited already, also when nothing is new."""
    live = Live(LEAVES[: MARKS[1]])
    watch = watching(live)
    assert not watch.look(silent)
    live.show(forged(MARKS[1], 4))
    assert watch.look(silent)


def test_a_log_that_lags_or_is_away_is_borne_for_a_while(monkeypatch):
    """An old checkpoint is true and a restart passes; two minutes of either are not well."""
    now_s = [0.0]
    monkeypatch.setattr(auditing.time, "monotonic", lambda: now_s[0])
    live = Live(LEAVES[: MARKS[3]])
    watch = watching(live)
    assert not watch.look(silent)
    live.show(LEAVES[: MARKS[1]])
    assert not watch.look(silent)
    live.trouble = Unavailable("away", retry_after_ms=1)
    assert not watch.look(silent)
    now_s[0] += auditing.SILENT_S_MAX + 1
    with pytest.raises(Unavailable, match="away"):
        watch.look(silent)
    live.show(LEAVES[: MARKS[4]])
    assert not watch.look(silent)
    live.show(LEAVES[: MARKS[1]])
    now_s[0] += auditing.SILENT_S_MAX + 1
    with pytest.raises(Unavailable, match="after"):
        watch.look(silent)


def test_a_watch_can_be_taken_up_again(tmp_path):
    """What passed is put aside as it goes."""
    kept = tmp_path / "kept"
    live = Live(LEAVES[: MARKS[2]])
    auditor = Resumption(kept, None).begin(REGISTRY, KEY)
    assert not Watch(auditor, live, None, Resumption(kept, None)).look(silent)
    assert Resumption(kept, None).begin(REGISTRY, KEY).size == MARKS[2]


def test_a_forged_log_ends_the_command_with_1(audit, tmp_path):
    """Watched from the first entry on, the command leaves by itself, and says why on stderr."""
    code, out, err = audit(write(log_files(forged(MARKS[2], 3)), tmp_path / "log"), "--watch", "--json")
    assert (code, json.loads(out)["report"]["verdict"]) == (1, "findings")
    assert "ALARM: check 6: entry 3: " in err


def test_a_watch_is_ended_by_its_watcher(audit, monkeypatch, tmp_path):
    """Ctrl-C ends it with a report of what was audited, and 0."""

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(auditing.time, "sleep", interrupt)
    code, out, _ = audit(write(log_files(LEAVES), tmp_path / "log"), "--watch")
    assert (code, out.splitlines()[-1]) == (0, "audit: pass")


class Two(Copies):
    """Other sources that are here already."""

    def __init__(self, folder, **logs) -> None:
        super().__init__(logs, folder)
        self._logs = logs


def test_a_watched_log_that_shows_others_another_history_is_an_alarm(tmp_path):
    """At the first look that sees it, also when the watched one has nothing new; and nothing is put aside any more."""
    live, other = Live(LEAVES[: MARKS[1]]), Live(LEAVES[: MARKS[0]])
    kept = tmp_path / "kept"
    resumption = Resumption(kept, None)
    watch = Watch(resumption.begin(REGISTRY, KEY), live, None, resumption, Two(tmp_path / "evidence", other=other))
    assert not watch.look(silent)
    other.show(LEAVES[: MARKS[2]])
    assert not watch.look(silent)
    before = kept.read_bytes()
    other.show(forged(MARKS[2], 4))
    assert watch.look(silent)
    live.show(LEAVES[: MARKS[3]])
    assert watch.look(silent)
    assert kept.read_bytes() == before
    assert told(watch.auditor.report().findings[0]).startswith("ALARM: check 17: other: ")
    assert len(list((tmp_path / "evidence").iterdir())) == 1


def test_another_source_may_be_away_for_a_while(tmp_path, monkeypatch):
    """It is told once, tried again after a while, and compared as soon as it is back."""
    now_s = [1_000.0]
    monkeypatch.setattr(copies.time, "monotonic", lambda: now_s[0])
    live, other = Live(LEAVES[: MARKS[1]]), Live(LEAVES[: MARKS[1]])
    other.trouble = Unavailable("away", retry_after_ms=1)
    two = Two(tmp_path / "evidence", other=other)
    watch = Watch(Auditor(REGISTRY, KEY), live, None, Resumption(None, None), two)
    assert not watch.look(silent)
    other.show(forged(MARKS[1], 4))
    assert not watch.look(silent)
    assert [each.verdict for each in two.told] == ["out_of_reach"]
    now_s[0] += copies.TRIED_AGAIN_S
    assert watch.look(silent)
    assert [each.verdict for each in two.told] == ["differs"]
