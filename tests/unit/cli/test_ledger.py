"""``wwwmarket ledger``: the same files on this disk, and entries for people."""

import json
import sys

import pytest

from tests.unit.audit.logs import AWARD, SIGNER, log_files, long_story, story, write
from tests.unit.rules.world import STRANGER
from wwwmarket import cli
from wwwmarket.ledger.note import Signer

STORY = story()
LONG = long_story(700).leaves
MARK = max(at + 1 for at, leaf in enumerate(LONG) if b"mark/v1" in leaf and at + 1 < 512)


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command line; gives its exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["wwwmarket", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return int(left.value.code or 0), *capsys.readouterr()

    return run


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_export_is_the_log_byte_for_byte(run, tmp_path):
    """Every file that is served is in the folder, and nothing else."""
    source, target = write(log_files(LONG), tmp_path / "served"), tmp_path / "copy"
    code, out, err = run("ledger", "export", target, "--ledger", source, "--json")
    assert (code, err) == (0, "")
    assert contents(target) == contents(source)
    assert json.loads(out)["entries"] == len(LONG)
    assert run("audit", target, "--vkey", SIGNER.verifier.text)[0] == 0


def test_a_folder_that_is_not_empty_is_left_alone(run, tmp_path):
    """An export does not mix with what is there, unless it is told to go on."""
    (tmp_path / "mine.txt").write_text("mine")
    code, _, err = run("ledger", "export", tmp_path, "--ledger", write(log_files(LONG), tmp_path / "served"))
    assert code == 1
    assert "--force" in err
    assert not (tmp_path / "checkpoint").exists()


def test_an_export_goes_on_where_it_was_left(run, tmp_path):
    """Full tiles and bundles that are there are not read again; the checkpoint is the new one."""
    target = tmp_path / "copy"
    run("ledger", "export", target, "--ledger", write(log_files(LONG[:MARK]), tmp_path / "old"))
    before = (target / "tile/entries/000").stat().st_mtime_ns
    code, out, _ = run(
        "ledger", "export", target, "--force", "--ledger", write(log_files(LONG), tmp_path / "new"), "--json"
    )
    assert code == 0
    assert (target / "tile/entries/000").stat().st_mtime_ns == before
    assert json.loads(out)["files_copied"] < len(log_files(LONG))
    assert run("audit", target)[0] == 0


def test_two_logs_do_not_meet_in_one_folder(run, tmp_path):
    """Another log's key in the folder ends the export before anything is written over it."""
    target = tmp_path / "copy"
    run("ledger", "export", target, "--ledger", write(log_files(STORY.leaves), tmp_path / "one"))
    other = write(log_files(STORY.leaves, Signer("other.example", STRANGER)), tmp_path / "other")
    (other / "vkey").write_text(Signer("other.example", STRANGER).verifier.text + "\n")
    before = contents(target)
    code, _, err = run("ledger", "export", target, "--force", "--ledger", other)
    assert (code, contents(target)) == (1, before)
    assert "another log" in err


def test_what_does_not_add_up_is_kept_as_evidence(run, tmp_path):
    """A log whose entries are not its tree's is copied as it is, and the export says so."""
    served = write(log_files(STORY.leaves), tmp_path / "served")
    bundle = served / "tile/entries/000.p/10"
    bundle.write_bytes(bundle.read_bytes()[:-1])
    code, _, err = run("ledger", "export", tmp_path / "copy", "--ledger", served)
    assert code == 1
    assert "do not add up" in err
    assert contents(tmp_path / "copy") == contents(served)


@pytest.mark.parametrize("missing", ["checkpoint", "tile/entries/000.p/10", "tile/0/000.p/10"])
def test_a_log_with_a_hole_is_not_exported(run, tmp_path, missing):
    """Without its checkpoint, a bundle or a tile there is no log to copy, and no checkpoint is written."""
    served = write(log_files(STORY.leaves), tmp_path / "served")
    (served / missing).unlink()
    assert run("ledger", "export", tmp_path / "copy", "--ledger", served)[0] == 1
    assert not (tmp_path / "copy" / "checkpoint").exists()


def test_a_log_without_a_key_is_exported(run, tmp_path):
    """A mirror need not serve the log's key; the person is told what is missing."""
    served = write(log_files(STORY.leaves), tmp_path / "served")
    (served / "vkey").unlink()
    code, _, err = run("ledger", "export", tmp_path / "copy", "--ledger", served)
    assert code == 0
    assert "--vkey" in err


def test_an_entry_is_shown_whole(run, tmp_path):
    """One entry is all of its fields, with its id and its place."""
    served = write(log_files(STORY.leaves), tmp_path / "served")
    code, out, _ = run("ledger", "show", AWARD, "--ledger", served, "--json")
    told = json.loads(out)
    assert (code, told["index"], told["body"]["kind"]) == (0, AWARD, "award/v1")
    assert run("ledger", "show", AWARD, "--ledger", served)[0] == 0


def test_the_latest_entries_are_shown(run, tmp_path):
    """The tail is the last entries in order, a line each."""
    served = write(log_files(LONG), tmp_path / "served")
    _, out, _ = run("ledger", "show", "--tail", 3, "--ledger", served, "--json")
    assert [each["index"] for each in json.loads(out)] == [len(LONG) - 3, len(LONG) - 2, len(LONG) - 1]
    code, out, _ = run("ledger", "show", "--tail", 700, "--ledger", served)
    assert code == 0
    assert "transfer/v1" in out
    code, out, _ = run("ledger", "show", "--ledger", write(log_files(STORY.leaves), tmp_path / "story"))
    assert code == 0
    assert all(kind in out for kind in ("genesis/v1", "offer/v1", "award/v1", "settlement/v1", "mark/v1"))


def test_an_entry_that_is_not_there_is_said_to_be(run, tmp_path):
    """Beyond the checkpoint there is nothing to show."""
    code, out, err = run("ledger", "show", 10, "--ledger", write(log_files(STORY.leaves), tmp_path / "served"))
    assert (code, out) == (1, "")
    assert "10 entries" in err


def test_an_entry_that_its_tiles_do_not_prove_is_not_shown(run, tmp_path):
    """An entry is shown only with a proof that it is in the checkpoint's tree."""
    served = write(log_files(STORY.leaves), tmp_path / "served")
    tile = served / "tile/0/000.p/10"
    tile.write_bytes(bytes(320))
    code, out, err = run("ledger", "show", 3, "--ledger", served)
    assert (code, out) == (1, "")
    assert "proof" in err
