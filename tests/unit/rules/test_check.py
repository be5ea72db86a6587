"""Reading an entry's body and what is signed inside it."""

import pickle

import pytest
from msgspec import Raw
from msgspec.structs import replace

from tests.unit.rules.world import (
    CLIENT,
    PROVIDER,
    RIVAL,
    STRANGER,
    Ledger,
    facts_of,
    make_ask,
    make_attestation,
    make_award,
    make_bid,
    make_offer,
    make_receipt,
    make_settlement,
    named,
)
from wwwmarket.crypto import canonical
from wwwmarket.crypto.signing import sign_entry, verified_own
from wwwmarket.domain.errors import Malformed, TooLarge, Unauthorised
from wwwmarket.domain.identity import NO_ENTRY
from wwwmarket.domain.records import Entry, Transfer
from wwwmarket.rules.check import check

AWARD = named("the award")


def checked(body):
    return check(verified_own(sign_entry(CLIENT, seq=0, prev=NO_ENTRY, body=body)))


def with_bytes(body: bytes):
    entry = Entry(account=CLIENT.account, seq=0, prev=NO_ENTRY, body=Raw(body), signature="0" * 128)
    return check(verified_own(entry))


def fitting_award():
    bid, offer = make_bid(), make_offer()
    winner, rival = make_ask(PROVIDER, bid, named("a")), make_ask(RIVAL, bid, named("b"), predicted_finish_ms=7_000)
    return make_award(bid, winner, offer, rival)


def test_an_entry_keeps_its_place_and_its_name():
    """What is checked has the author, place and name of the entry, and its body as a record."""
    verified = verified_own(sign_entry(CLIENT, seq=7, prev=AWARD, body=Transfer(to=PROVIDER.account, amount_micro=1)))
    result = check(verified)
    assert (result.id, result.account, result.seq, result.prev) == (verified.id, CLIENT.account, 7, AWARD)
    assert result.body == Transfer(to=PROVIDER.account, amount_micro=1)
    assert result.facts is None


def test_an_award_comes_with_its_facts():
    """The digests that the contract needs are of the bid and the asks in the award."""
    award = fitting_award()
    assert checked(award).facts == facts_of(award)


def test_checked_entries_travel_between_processes():
    """Checking can be done in another process: both sides of it can be pickled."""
    verified = verified_own(sign_entry(CLIENT, seq=0, prev=NO_ENTRY, body=fitting_award()))
    assert pickle.loads(pickle.dumps(check(pickle.loads(pickle.dumps(verified))))) == check(verified)  # noqa: S301


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"kind":"lottery/v1"}',
        b'{"amount_micro":1,"kind":"transfer/v1"}',
        b'{"amount_micro":0,"kind":"transfer/v1","to":"' + b"0" * 64 + b'"}',
        b'{"amount_micro":9007199254740992,"kind":"transfer/v1","to":"' + b"0" * 64 + b'"}',
        b'{"amount_micro":1.0,"kind":"transfer/v1","to":"' + b"0" * 64 + b'"}',
        b'{"kind":"transfer/v1","amount_micro":1,"to":"' + b"0" * 64 + b'"}',
        b'{"amount_micro":1,"kind":"transfer/v1","note":1,"to":"' + b"0" * 64 + b'"}',
    ],
    ids=["empty", "unknown", "incomplete", "zero", "too big", "float", "unsorted", "extra"],
)
def test_a_body_that_is_not_canonical_is_malformed(body):
    """A body must be the canonical bytes of a known record, with every field in range."""
    with pytest.raises(Malformed):
        with_bytes(body)


def test_a_body_is_bounded():
    """More bytes than an entry can have are refused before they are read."""
    with pytest.raises(TooLarge):
        with_bytes(b" " * (canonical.ENTRY_BYTES_MAX + 1))


def test_an_award_with_too_many_asks_is_malformed():
    """At most 64 asks, and at least one."""
    for count in (0, 65):
        with pytest.raises(Malformed):
            checked(replace(fitting_award(), asks=tuple(f"{number:064x}" for number in range(count))))


@pytest.mark.parametrize("part", ["winner", "runner_up"])
def test_an_ask_that_its_signer_did_not_sign_is_refused(part):
    """A changed ask, or one under another's name, does not verify."""
    award = fitting_award()
    ask = getattr(award, part)
    for forged in (replace(ask, signer=STRANGER.account), replace(ask, body=replace(ask.body, predicted_ttft_ms=1))):
        with pytest.raises(Unauthorised):
            checked(replace(award, **{part: forged}))


@pytest.mark.parametrize("part", ["attestation", "receipt"])
def test_an_account_of_an_execution_that_its_signer_did_not_give_is_refused(part):
    """A changed attestation or receipt, or one under another's name, does not verify."""
    settlement = make_settlement(AWARD, make_attestation(PROVIDER, AWARD), make_receipt(CLIENT, AWARD))
    assert checked(settlement).body == settlement
    assert checked(replace(settlement, receipt=None)).facts is None
    signed = getattr(settlement, part)
    for forged in (
        replace(signed, signer=STRANGER.account),
        replace(signed, body=replace(signed.body, award=NO_ENTRY)),
    ):
        with pytest.raises(Unauthorised):
            checked(replace(settlement, **{part: forged}))


def test_checking_needs_no_state():
    """An entry out of place is found by the state, not by the check."""
    ledger = Ledger.begun()
    early = sign_entry(CLIENT, seq=5, prev=NO_ENTRY, body=Transfer(to=PROVIDER.account, amount_micro=1))
    assert check(verified_own(early)).seq == 5
    assert ledger.state.chain_head(CLIENT.account).next_seq == 0
