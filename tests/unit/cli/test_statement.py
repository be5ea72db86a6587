"""Statements as people, spreadsheets, programs and printers read them; the same numbers everywhere."""

import csv
import json

import pytest
from typer.testing import CliRunner

from tests.unit.audit.logs import log_files, story
from tests.unit.mirror.world import COMMITTEE, NAMES, LyingLog, finalised
from tests.unit.rules.world import CLIENT, PROVIDER
from wwwmarket.cli import app
from wwwmarket.ledger.checkpoint import open_checkpoint
from wwwmarket.ledger.export import files


@pytest.fixture
def folder(tmp_path):
    for path, content in log_files(story().leaves).items():
        target = tmp_path / "log" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return tmp_path / "log"


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_json_csv_and_page_say_the_same(folder, tmp_path):
    """The lines' nets are the closing balance, in each of the three."""
    table, page = tmp_path / "s.csv", tmp_path / "s.html"
    done = run("account", "statement", PROVIDER.account, "--ledger", folder, "--csv", table, "--page", page, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    closing = told["closing"]
    held = closing["available_micro"] + closing["locked_micro"] + closing["bonded_micro"]
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert len(rows) == len(told["lines"])
    assert sum(int(row["net_micro"]) for row in rows) == held
    assert f"Account {PROVIDER.account}" in page.read_text()
    assert page.read_text().count("<tr>") == len(rows) + 1


def test_a_period_has_its_opening_and_closing_balance(folder):
    """Two periods that meet: one's closing is the other's opening."""
    at = "2023-11-14T22:13:21Z"
    first = json.loads(run("account", "statement", CLIENT.account, "--ledger", folder, "--until", at, "--json").stdout)
    second = json.loads(run("account", "statement", CLIENT.account, "--ledger", folder, "--from", at, "--json").stdout)
    whole = json.loads(run("account", "statement", CLIENT.account, "--ledger", folder, "--json").stdout)
    assert first["closing"] == second["opening"]
    assert (first["opening"], second["closing"]) == (whole["opening"], whole["closing"])
    assert first["lines"] + second["lines"] == whole["lines"]
    assert first["lines"]
    assert second["lines"]


def test_earnings_come_by_day(folder):
    """Grouped by day unless told otherwise, with the tokens that they were for."""
    done = run("provider", "earnings", PROVIDER.account, "--ledger", folder, "--json")
    (day, *_) = json.loads(done.stdout)["totals"]
    assert day["group"] == "2023-11-14"
    by_model = json.loads(
        run("provider", "earnings", PROVIDER.account, "--ledger", folder, "--by", "model", "--json").stdout
    )
    (served,) = [total for total in by_model["totals"] if total["group"] == "qwen3-8b"]
    assert served["output_tokens"] > 0 < served["earned_micro"]


def test_a_statement_says_up_to_where_it_is_final(tmp_path):
    """By a quorum's cosignatures on the copied checkpoint, judged by the committee that the entries themselves name."""
    log = LyingLog.begun(committee=COMMITTEE)

    def final_size(*names):
        checkpoint = open_checkpoint(finalised(log, *names), log.signer.verifier)
        for path, content in files(checkpoint, lambda start, end: log.leaves[start:end]):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(content)
        done = run("account", "statement", CLIENT.account, "--ledger", tmp_path, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)["final_size"]

    assert final_size(*NAMES[:3]) == len(log.leaves)
    assert final_size(*NAMES[:2]) == 0
    assert "Final up to entry" not in run("account", "statement", CLIENT.account, "--ledger", tmp_path).stdout


def test_a_ledger_that_does_not_add_up_has_no_statement(folder):
    """Entries other than the checkpoint's are refused, with what to do."""
    bundle = next((folder / "tile" / "entries").rglob("000.p/*"))
    bundle.write_bytes(bundle.read_bytes().replace(b'"at_ms":1700000001000', b'"at_ms":1700000001001'))
    done = run("account", "statement", CLIENT.account, "--ledger", folder)
    assert done.exit_code != 0
    assert not done.stdout


def test_bad_questions_get_plain_answers(folder):
    """A date that is none, an account that is none."""
    assert run("account", "statement", CLIENT.account, "--ledger", folder, "--from", "yesterday").exit_code == 2
    assert run("account", "statement", "me", "--ledger", folder).exit_code != 0
