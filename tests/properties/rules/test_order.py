"""Order of arrival, where it must not matter, and bytes, where anything may come."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.rules.world import CLIENT, PEOPLE, Ledger, make_offer
from wwwmarket.crypto import canonical
from wwwmarket.crypto.signing import open_entry, sign_entry
from wwwmarket.domain.errors import Refusal
from wwwmarket.domain.identity import NO_ENTRY
from wwwmarket.domain.records import Transfer
from wwwmarket.rules.check import check

said = st.lists(
    st.tuples(st.sampled_from(PEOPLE[1:]), st.sampled_from(PEOPLE) | st.none(), st.integers(1, 100)), max_size=8
)


def chains(said):
    """Signed entries, each account's in its own order: payments, and offers where there is nobody to pay."""
    anchor = Ledger.begun().state
    heads = {person.account: anchor.chain_head(person.account) for person in PEOPLE}
    entries = []
    for author, to, amount in said:
        if to is author:
            continue
        body = make_offer(bond_micro=amount) if to is None else Transfer(to=to.account, amount_micro=amount)
        seq, prev = heads[author.account]
        checked = check(open_entry(canonical.encode(sign_entry(author, seq=seq, prev=prev, body=body))))
        heads[author.account] = (seq + 1, checked.id)
        entries.append(checked)
    return entries


def interleaved(entries, order):
    """Another order of the same entries that leaves each account's own order as it was."""
    queues = {}
    for entry in entries:
        queues.setdefault(entry.account, []).append(entry)
    return [queues[entries[place].account].pop(0) for place in order]


@settings(deadline=None)
@given(said.flatmap(lambda s: st.tuples(st.just(s), st.permutations(range(len([x for x in s if x[0] is not x[1]]))))))
def test_the_root_does_not_depend_on_the_order_of_arrival(drawn):
    """Entries of several accounts that can all be followed lead to one root and one snapshot, in whatever order."""
    entries = chains(drawn[0])
    first, second = Ledger.begun().state, Ledger.begun().state
    for entry in entries:
        first.apply(entry)
    for entry in interleaved(entries, drawn[1]):
        second.apply(entry)
        second.root()
    assert first.root() == second.root()
    assert first.snapshot() == second.snapshot()


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_no_body_breaks_the_state(body):
    """Whatever bytes stand in an entry's body, they are followed or refused."""
    entry = sign_entry(CLIENT, seq=0, prev=NO_ENTRY, body=Transfer(to=PEOPLE[0].account, amount_micro=1))
    leaf = canonical.encode(entry)
    start, end = leaf.index(b'"body":') + 7, leaf.index(b',"prev"')
    with pytest.raises(Refusal):
        check(open_entry(leaf[:start] + body + leaf[end:]))
