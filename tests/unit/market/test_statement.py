"""Statements: every line is an entry, and the lines are the balance."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.audit.logs import story
from tests.unit.rules.world import CLIENT, NOW, OPERATOR, PEOPLE, PROVIDER, REGISTRY, RIVAL
from wwwmarket.crypto.signing import open_entry
from wwwmarket.domain.errors import Refusal
from wwwmarket.market.statement import Reader, balance_of, totals, within
from wwwmarket.rules.check import check
from wwwmarket.rules.state import State


def read(account, leaves):
    reader = Reader(account, State(REGISTRY))
    lines = [line for leaf in leaves if (line := reader.follow(check(open_entry(leaf)))) is not None]
    return lines, reader.state


@pytest.mark.parametrize("person", PEOPLE)
def test_lines_add_up_to_the_balance(person):
    """For everybody, after a grant, offers, awards, a settlement, a transfer and an expiry."""
    lines, state = read(person.account, story().leaves)
    assert balance_of(lines) == state.account(person.account)


def test_a_line_says_what_with_whom_and_for_how_much():
    """The client's settlement names its provider, model, award and tokens; what it cost is the net."""
    lines, _ = read(CLIENT.account, story().leaves)
    kinds = [line.kind for line in lines]
    assert kinds[:2] == ["genesis", "award"]
    (paid,) = [line for line in lines if line.kind == "settlement"]
    (locked, *_) = [line for line in lines if line.kind == "award"]
    assert (paid.counterparty, paid.model, paid.award) == (PROVIDER.account, "qwen3-8b", locked.award)
    assert locked.net_micro == 0 > locked.available_micro == -locked.locked_micro
    assert paid.net_micro < 0
    assert paid.usage is not None
    theirs, _ = read(PROVIDER.account, story().leaves)
    (earned,) = [line for line in theirs if line.kind == "settlement"]
    assert earned.net_micro == -paid.net_micro
    assert earned.counterparty == CLIENT.account


@pytest.mark.parametrize("by", ["day", "counterparty", "model", "kind"])
@pytest.mark.parametrize("person", [CLIENT, PROVIDER, RIVAL, OPERATOR])
def test_totals_are_the_lines_however_they_are_grouped(person, by):
    """Each grouping nets the same."""
    lines, state = read(person.account, story().leaves)
    grouped = totals(lines, by, lambda at_ms: f"day {at_ms // 86_400_000}")
    assert sum(total.net_micro for total in grouped) == sum(line.net_micro for line in lines)
    held = state.account(person.account)
    assert sum(total.net_micro for total in grouped) == held.available_micro + held.locked_micro + held.bonded_micro
    assert sum(total.lines for total in grouped) == len(lines)
    assert [total.group for total in grouped] == sorted({total.group for total in grouped})


@settings(max_examples=30)
@given(cut=st.integers(min_value=0, max_value=10))
def test_a_statement_in_two_parts_is_the_whole(cut):
    """Splitting at any instant leaves no line out, and none twice."""
    lines, _ = read(CLIENT.account, story().leaves)
    at_ms = NOW + cut * 30_000
    assert [*within(lines, None, at_ms), *within(lines, at_ms, None)] == lines


def test_an_entry_that_does_not_follow_ends_the_reading():
    """A statement is of what the ledger says, or it is none."""
    leaves = list(story().leaves)
    with pytest.raises(Refusal):
        read(CLIENT.account, [leaves[0], *leaves[2:]])
