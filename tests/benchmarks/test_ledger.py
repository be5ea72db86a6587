"""Measurements of the ledger, printed, with the claims about them that hold on any machine."""

import pytest

from loadtests import finality, ledger

pytestmark = pytest.mark.bench

MEMORY_GROWTH_MIB_MAX = 16
"""Between logs of which one is four times the other: what allocators leave, and not what entries take."""


def test_the_audits_memory_does_not_depend_on_the_logs_length():
    """Appending and auditing, step by step; four times the entries take no more memory, in one process or in several."""
    best = ledger.measure(16_000, rounds=2)
    for mix in ledger.SIGNATURES:
        for processes in {each for kind, _, each in best if kind == mix}:
            small, large = (best[mix, size, processes] for size in (4_000, 16_000))
            assert large.peak_mib - small.peak_mib < MEMORY_GROWTH_MIB_MAX


def test_entries_become_final_under_four_mirrors(capsys, monkeypatch):
    """From submission to final, over real processes: nothing is refused, everything becomes final."""
    monkeypatch.setattr("sys.argv", ["finality", "--seconds", "10"])
    finality.main()
    assert " 0 refused" in capsys.readouterr().out
