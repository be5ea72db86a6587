"""Whether an answer under a tab was paid, from a file and a copy of the ledger; and what statements say of tabs."""

import json

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from tests.unit.audit.logs import log_files
from tests.unit.market.test_tab import HOUR_MS, Pair
from tests.unit.rules.world import CLIENT, NOW, OPERATOR, PROVIDER, Ledger, make_genesis
from wwwmarket.cli import app
from wwwmarket.crypto import canonical
from wwwmarket.crypto.signing import sign_entry
from wwwmarket.domain.records import Mark, TabOpening, TabReceipt
from wwwmarket.market.tab import prove


class Story:
    """A log in which a tab of five answers is opened and settled, and the proofs that its client has."""

    def __init__(self, folder) -> None:
        self.folder, self.ledger, self.leaves = folder, Ledger(), []
        self.write(OPERATOR, make_genesis())
        opening = TabOpening(provider=PROVIDER.account, locked_micro=10_000, expires_ms=NOW + HOUR_MS)
        self.tab = self.write(CLIENT, opening)
        self.pair = Pair(self.tab, self.ledger.state.tab(self.tab))

    def write(self, author, body):
        seq, prev = self.ledger.state.chain_head(author.account)
        self.leaves.append(canonical.encode(sign_entry(author, seq=seq, prev=prev, body=body)))
        return self.ledger.submit(author, body).checked.id

    def mark(self, at_ms=NOW):
        self.write(OPERATOR, Mark(at_ms=at_ms, state_root=self.ledger.state.root()))

    def settle(self):
        self.write(PROVIDER, self.pair.payee.settlement(self.ledger.state.now_ms))

    def kept(self):
        return [canonical.decode(leaf, TabReceipt) for leaf in self.pair.kept]

    def verify(self, proof):
        for path, content in log_files(self.leaves).items():
            target = self.folder / "log" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        file = self.folder / "answer.json"
        file.write_bytes(canonical.encode(proof))
        done = run("tab", "verify", file, "--ledger", self.folder / "log", "--json")
        told = json.loads(done.stdout)
        assert done.exit_code == (0 if told["verdict"] in {"paid", "claimed"} else 1)
        return told


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def story(tmp_path):
    return Story(tmp_path)


def test_an_answer_that_its_tab_paid_for_is_told_to_be_paid(story):
    """With what it cost, what was paid of it, and the entry that did; all of them come to what the ledger moved."""
    for latency_ms in (5_100, 60_000, 5_100):
        story.pair.serve(latency_ms=latency_ms)
    story.settle()
    story.mark()
    told = [story.verify(prove(story.tab, story.kept(), index)) for index in range(3)]
    assert [one["verdict"] for one in told] == ["paid"] * 3
    assert told[1]["paid_micro"] < told[1]["cost_micro"], "it came late"
    paid = sum(one["paid_micro"] for one in told)
    assert 1_000_000 - story.ledger.state.account(CLIENT.account).available_micro == paid
    assert {one["settlement"] for one in told} == {2}
    text = run("tab", "verify", story.folder / "answer.json", "--ledger", story.folder / "log").stdout
    assert "verify: paid" in text


def test_an_answer_that_is_not_under_the_settled_root_is_not_paid(story):
    """Another receipt, another place, more answers than the provider settled for, another tab."""
    for _ in range(3):
        story.pair.serve()
    story.settle()
    story.mark()
    kept = story.kept()
    good = prove(story.tab, kept, 1)
    for wrong in (
        replace(good, index=2),
        replace(good, receipt=kept[0]),
        replace(good, hashes=good.hashes[:-1]),
        prove(story.tab, [*kept, kept[0]], 1),
    ):
        assert story.verify(wrong)["verdict"] == "not paid"
    elsewhere = story.verify(replace(good, tab="0" * 64))
    assert (elsewhere["verdict"], elsewhere["settlement"]) == ("not paid", None)


def test_an_answer_under_an_open_or_lapsed_tab_is_not_paid(story):
    """Open: not settled yet. Ended before its provider settled: the lock returned."""
    story.pair.serve()
    story.mark()
    proof = prove(story.tab, story.kept(), 0)
    assert story.verify(proof)["verdict"] == "not settled"
    story.mark(NOW + HOUR_MS)
    assert story.verify(proof)["verdict"] == "not paid"


def test_a_voucher_that_was_held_back_shows(story):
    """Its provider claimed the award in full, where the client's receipt took something off."""
    signed = story.pair.begin()
    kept, _ = story.pair.vouch(signed, story.pair.answer(signed), latency_ms=60_000)
    story.mark(NOW + 60_000)
    story.settle()
    story.mark(NOW + 60_000)
    told = story.verify(prove(story.tab, [kept], 0))
    assert (told["verdict"], told["paid_micro"]) == ("claimed", told["cost_micro"])
    assert told["paid_micro"] > story.pair.payer.voucher.paid_micro


def test_what_is_no_proof_cannot_be_read(story, tmp_path):
    """2: not to be confused with an answer that was not paid."""
    (tmp_path / "nothing.json").write_text("{}")
    for file in ("nothing.json", "absent.json"):
        assert run("tab", "verify", tmp_path / file, "--ledger", tmp_path).exit_code == 2


def test_a_statement_tells_a_tab_s_lines(story):
    """Opened and settled are two lines of one tab, between the two, for so many answers; they add up to the balance."""
    for _ in range(3):
        story.pair.serve()
    story.settle()
    story.mark()
    story.verify(prove(story.tab, story.kept(), 0))
    log, table = story.folder / "log", story.folder / "lines.csv"
    done = run("account", "statement", CLIENT.account, "--ledger", log, "--csv", table, "--json")
    _, opened, settled = json.loads(done.stdout)["lines"]
    assert (opened["kind"], settled["kind"]) == ("tab", "tab-settlement")
    assert opened["tab"] == settled["tab"] == story.tab
    assert opened["counterparty"] == settled["counterparty"] == PROVIDER.account
    assert (opened["answers"], settled["answers"]) == (None, 3)
    paid = story.pair.payer.voucher.paid_micro
    assert settled["available_micro"] + settled["locked_micro"] == -paid
    assert f",{story.tab},3" in table.read_text()
    earned = run("provider", "earnings", PROVIDER.account, "--ledger", log, "--by", "counterparty", "--json")
    assert json.loads(earned.stdout)["totals"][-1]["net_micro"] in {paid, 1_000_000}
    assert "3 answers" in run("ledger", "show", "--tail", "2", "--ledger", log).stdout
