"""``wwwmarket audit --evidence``: what it says of a file, and how it leaves. ``provider status``: what it shows."""

import json
import sys

import pytest

from tests.unit.market.accused import award_to_the_worse, evidence_of, receipt
from tests.unit.rules.world import OPERATOR, named
from wwwmarket import cli
from wwwmarket.cli.provider import asks_shown
from wwwmarket.crypto import canonical
from wwwmarket.market.evidence import EVIDENCE_BYTES_MAX
from wwwmarket.market.outcomes import AskOutcome
from wwwmarket.node.service import AsksView

OMITTED = evidence_of(award_to_the_worse(listed=False))
NOTHING = evidence_of(award_to_the_worse(listed=False), received=receipt(None).signed)


@pytest.fixture
def judged(monkeypatch, capsys, tmp_path):
    """Judges these bytes; gives the exit code, stdout and stderr."""

    def judged(data: bytes, *arguments: str) -> tuple[int, str, str]:
        file = tmp_path / "evidence.json"
        file.write_bytes(data)
        monkeypatch.setattr(sys, "argv", ["wwwmarket", "audit", "--evidence", str(file), *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return int(left.value.code or 0), *capsys.readouterr()

    return judged


def test_a_proven_fault_leaves_with_1_and_names_the_auctioneer(judged):
    """Whoever has the file alone can tell; a final line feed does no harm."""
    code, out, err = judged(canonical.encode(OMITTED) + b"\n")
    assert (code, err) == (1, "")
    assert OPERATOR.account in out.replace("\n", "")
    assert out.splitlines()[-1].startswith("evidence: proven: ")
    code, out, _ = judged(canonical.encode(OMITTED), "--json")
    assert (code, json.loads(out)["proven"]["fault"]) == (1, "omitted")


def test_evidence_that_proves_nothing_leaves_with_0(judged):
    """It says why."""
    code, out, _ = judged(canonical.encode(NOTHING))
    assert (code, out) == (0, "evidence: not proven: the receipt does not stand behind this award\n")
    code, out, _ = judged(canonical.encode(NOTHING), "--json")
    assert (code, json.loads(out)["verdict"], json.loads(out)["proven"]) == (0, "not proven", None)


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", canonical.encode(OMITTED)[:-1], b" " * (EVIDENCE_BYTES_MAX + 9)])
def test_what_is_no_evidence_leaves_with_2(judged, data):
    """One line says that it cannot be read."""
    code, out, err = judged(data)
    assert (code, out) == (2, "")
    assert err.startswith("wwwmarket: the evidence could not be read: ")


@pytest.mark.parametrize("arguments", [[], ["./log", "--evidence", "./file"]])
def test_a_log_or_evidence_is_named_and_not_both(monkeypatch, capsys, arguments):
    """Anything else is a mistake."""
    monkeypatch.setattr(sys, "argv", ["wwwmarket", "audit", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert (left.value.code, capsys.readouterr().out) == (2, "")


def test_people_see_why_a_provider_lost():
    """Counts, the median gap and the latest reasons; a program gets everything."""
    lost = AskOutcome(
        ask=named("ask"),
        bid=named("bid"),
        offer=named("offer"),
        asked_ms=1,
        verdict="lost",
        award=named("award"),
        score=9,
        winner_score=2,
        reason="its score is 7 above the winner's",
    )
    asks = AsksView(
        asks=3, verdicts={"lost": 1, "omitted": 2}, median_gap_micro=7, latest=(lost,), evidence=(named("ask"),)
    )
    shown = asks_shown(asks, json=False)
    assert (shown["asks"], shown["won"], shown["lost"], shown["median_gap_micro"]) == (3, 0, 1, 7)
    assert (shown["otherwise"], shown["latest"][0]["reason"]) == ({"omitted": 2}, lost.reason)
    assert asks_shown(asks, json=True) == {"asks": asks}
