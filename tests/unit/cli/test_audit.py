"""``wwwmarket audit`` over a folder: what it prints, how it leaves, whose key it takes."""

import json
import re
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.audit.logs import AWARD, MARK, SIGNER, TRANSFER, edited, log_files, story, write
from tests.unit.rules.world import CLIENT, STRANGER
from wwwmarket import cli
from wwwmarket.adapters import log_reader
from wwwmarket.crypto import canonical
from wwwmarket.domain.book import Account
from wwwmarket.ledger.note import Cosigner, Signer

STORY = story()
FILES = log_files(STORY.leaves)
KEY = SIGNER.verifier.text


@pytest.fixture
def folder(tmp_path):
    """An exported log."""
    return write(FILES, tmp_path / "log")


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command line; gives its exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["wwwmarket", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return int(left.value.code or 0), *capsys.readouterr()

    return run


def test_an_honest_log_leaves_with_0(run, folder):
    """A log that passes ends with one line that says so."""
    code, out, err = run("audit", folder, "--vkey", KEY)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "audit: pass"
    assert re.search(r"12\s+Winners, prices and locks are the auction's\s+2\s+0\s+pass", out)
    assert "consistency" not in out


def test_a_forged_log_leaves_with_1_and_names_check_and_entry(run, tmp_path):
    """Findings are listed by check and entry, and counted in the last line."""
    forged = edited(STORY.leaves[AWARD], lambda award: award, STRANGER)
    leaves = [*STORY.leaves[:AWARD], forged, *STORY.leaves[AWARD + 1 :]]
    code, out, _ = run("audit", write(log_files(leaves), tmp_path / "log"), "--vkey", KEY)
    assert code == 1
    assert re.search(rf"violation\s+10\s+{AWARD}\s+{STRANGER.account[:12]}", out)
    assert re.fullmatch(r"audit: [1-9][0-9]* findings?", out.splitlines()[-1])


def test_a_key_from_the_source_proves_consistency_only(run, folder):
    """Without a key of one's own the report says what that is worth."""
    code, out, _ = run("audit", folder)
    assert code == 0
    assert "the source's own: consistency is proven, not whose log it is" in out
    code, out, _ = run("audit", folder, "--json")
    assert json.loads(out)["key_from"] == "source"


def test_a_key_is_read_from_a_file(run, folder):
    """The key may be a file, such as one that came by another way."""
    code, out, _ = run("audit", folder, "--vkey", folder / "vkey", "--json")
    assert (code, json.loads(out)["key_from"]) == (0, "given")


def test_json_is_the_whole_report(run, folder):
    """A program reads every check, by number, and the verdict."""
    code, out, err = run("audit", folder, "--vkey", KEY, "--json")
    told = json.loads(out)
    assert (code, err, told["report"]["verdict"], told["key"]) == (0, "", "pass", KEY)
    assert [each["check"] for each in told["report"]["checks"]] == list(range(1, 18))


def test_another_key_finds_a_forgery(run, folder):
    """A log that somebody else signed fails under the key of whom it was to be."""
    code, out, _ = run("audit", folder, "--vkey", Signer(SIGNER.verifier.name, STRANGER).verifier.text, "--json")
    assert code == 1
    assert {each["check"] for each in json.loads(out)["report"]["findings"]} == {1}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--vkey", "no+key"),
        ("--vkey", "missing-file"),
        ("--vkey", Cosigner("mirror.example", CLIENT).verifier.text),
        ("--expect-balance", "someone=1"),
        ("--expect-balance", f"{CLIENT.account}=-1"),
        ("--expect-balance", CLIENT.account),
    ],
)
def test_what_cannot_be_understood_leaves_with_2(run, folder, arguments):
    """No key, no amount: the audit does not begin."""
    code, out, err = run("audit", folder, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("wwwmarket: the audit could not run: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("missing", ["checkpoint", "vkey", ""])
def test_what_is_no_log_leaves_with_2(run, folder, missing):
    """A folder without a log, or none at all, cannot be audited."""
    source = folder
    if missing:
        (folder / missing).unlink()
    else:
        source = folder / "nowhere"
    code, out, _ = run("audit", source)
    assert (code, out) == (2, "")


def test_an_expected_balance_is_compared(run, folder):
    """What one believes to have, in micro-credits, is held against the replay."""
    held = STORY.state.account(CLIENT.account).available_micro
    assert run("audit", folder, "--expect-balance", f"{CLIENT.account}={held}")[0] == 0
    code, out, _ = run("audit", folder, "--expect-balance", f"{CLIENT.account}={held + 1}", "--json")
    (finding,) = json.loads(out)["report"]["findings"]
    assert (code, finding["check"], finding["account"]) == (1, 16, CLIENT.account)


def test_balances_beside_the_log_are_compared(run, folder):
    """A ``balances.json`` in the folder is a claim for each account in it."""
    true = dict(STORY.state.accounts())
    (folder / "balances.json").write_bytes(canonical.encode(true))
    assert run("audit", folder)[0] == 0
    forged = {**true, CLIENT.account: Account(available_micro=10**12)}
    (folder / "balances.json").write_bytes(canonical.encode(forged))
    code, out, _ = run("audit", folder)
    assert code == 1
    assert out.splitlines()[-1] == "audit: 1 finding"
    (folder / "balances.json").write_bytes(b"{")
    assert run("audit", folder)[0] == 2


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_changed_byte_of_an_export_passes(run, folder, data):
    """Whatever byte of whatever exported file is changed, the audit leaves with 1 or 2, never with 0."""
    path = data.draw(st.sampled_from(sorted(each for each in folder.rglob("*") if each.is_file())))
    content = path.read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(changed))
    try:
        assert run("audit", folder)[0] in {1, 2}
    finally:
        path.write_bytes(content)


def test_strangers_cannot_steer_the_terminal(run, tmp_path):
    """What a forged log says of itself is printed without its control characters."""
    note = FILES["checkpoint"].replace(b"test.example", b"\xc2\x9b2Jexample", 1)
    _, out, err = run("audit", write({**FILES, "checkpoint": note}, tmp_path / "log"), "--vkey", KEY)
    assert "\x9b" not in out + err


GONE = "http://127.0.0.1:9"


@pytest.fixture
def sides(tmp_path):
    """One log as it is shown to three: whole, its beginning, and with another ending."""
    cut = STORY.leaves[: MARK + 1]
    other = [*STORY.leaves[:TRANSFER], *cut[-1:]]
    return [
        write(log_files(leaves), tmp_path / name) for name, leaves in (("a", STORY.leaves), ("b", cut), ("c", other))
    ]


def test_other_sources_of_the_log_are_held_against_the_first(run, sides):
    """One that is its beginning, or longer, agrees."""
    whole, cut, _ = sides
    for audited, other in ((whole, cut), (cut, whole)):
        code, out, err = run("audit", audited, other, "--vkey", KEY)
        assert (code, err, out.splitlines()[-1]) == (0, "", "audit: pass")
        assert re.search(r"17\s+Other sources show the same log\s+1\s+0\s+pass", out)


def test_a_split_view_leaves_its_evidence(run, sides, tmp_path):
    """The command leaves with 1, and the file that it names proves the log's fault by itself."""
    whole, cut, other = sides
    kept = tmp_path / "kept"
    code, out, _ = run("audit", whole, cut, other, "--vkey", KEY, "--evidence-dir", kept, "--json")
    told = json.loads(out)
    assert (code, [each["verdict"] for each in told["compared"]]) == (1, ["agrees", "differs"])
    assert [each["check"] for each in told["report"]["findings"]] == [17]
    (file,) = told["compared"][1]["evidence"]
    code, out, _ = run("audit", "--evidence", file)
    assert (code, f"evidence: proven: {SIGNER.verifier.name} signed trees" in out) == (1, True)


def test_a_source_out_of_reach_is_no_pass(run, sides, monkeypatch):
    """It is told, the others are compared all the same, and the command leaves with 2; whichever place it has."""
    monkeypatch.setattr(log_reader, "TRIES_MAX", 1)
    whole, cut, _ = sides
    for named in ((whole, cut, GONE), (GONE, whole, cut)):
        code, out, err = run("audit", *named, "--vkey", KEY)
        assert (code, out.splitlines()[-1]) == (2, "audit: pass, but 1 out of reach")
        assert f"{GONE} is out of reach, and not compared: " in err
        assert re.search(r"agrees", out)
