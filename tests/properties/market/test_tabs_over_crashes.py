"""Both sides of a tab die at any moment, and what they say to each other is lost, late, or said twice."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.unit.market.test_tab import HOUR_MS, RULE, award
from tests.unit.rules.world import CLIENT, NOW, PROVIDER, REGISTRY, Ledger, make_attestation, make_receipt, usage
from wwwmarket.domain.errors import Conflict, Exhausted
from wwwmarket.domain.quantity import NO_USAGE
from wwwmarket.domain.records import TabOpening, Unvouched
from wwwmarket.market.tab import Kept, Payee, Payer, Tally, name_of, worth
from wwwmarket.rules.state import State

LOCKED_MICRO = 12 * award().locked_micro


class Tabs(RuleBasedStateMachine):
    """Each side's disk is all that it has after a crash; what is under way may come later, twice, or never."""

    @initialize()
    def open(self) -> None:
        self.ledger = Ledger.begun()
        opening = TabOpening(provider=PROVIDER.account, locked_micro=LOCKED_MICRO, expires_ms=NOW + HOUR_MS)
        self.tab = self.ledger.submit(CLIENT, opening).checked.id
        self.opened = self.ledger.state.tab(self.tab)
        self.bought: list[Kept] = []
        self.awarded = {}
        self.sold: list[Kept] = []
        self.working = {}
        self.answered = {}
        self.client_dies()
        self.provider_dies()

    def tally(self) -> Tally:
        return Tally(self.tab, self.opened, RULE)

    @rule()
    def client_dies(self) -> None:
        at_work = [signed for number, signed in self.awarded.items() if not self.is_vouched(number)]
        self.payer = Payer.restore(CLIENT, self.tally(), self.bought, at_work)

    @rule()
    def provider_dies(self) -> None:
        self.payee = Payee.restore(self.tally(), self.ledger.state.account_of, self.sold, [*self.working.values()])

    def is_vouched(self, number: int) -> bool:
        return any(kept.receipt.award.body.number == number for kept in self.bought)

    @rule()
    def client_awards(self) -> None:
        """Kept before it is sent."""
        try:
            signed = self.payer.award(award()).signed
        except (Exhausted, Conflict):
            return
        assert signed.body.number not in self.awarded, "a number is given once"
        self.awarded[signed.body.number] = signed

    @precondition(lambda self: self.awarded)
    @rule(data=st.data())
    def an_award_arrives(self, data) -> None:
        """Any of those ever sent: late, or again. An honest client's is refused where it came before, and only then."""
        number = data.draw(st.sampled_from(sorted(self.awarded)))
        known = {*self.working, *(kept.receipt.award.body.number for kept in self.sold)}
        if number in known:
            with pytest.raises(Conflict, match="given before"):
                self.payee.take(self.awarded[number])
            return
        self.payee.take(self.awarded[number])
        self.working[number] = self.awarded[number]

    @precondition(lambda self: set(self.working) - set(self.answered))
    @rule(data=st.data(), outcome=st.sampled_from(["completed", "cancelled", "failed"]))
    def provider_attests(self, data, outcome) -> None:
        number = data.draw(st.sampled_from(sorted(set(self.working) - set(self.answered))))
        signed = self.working[number]
        counted = {"usage": NO_USAGE} if outcome == "failed" else {}
        said = make_attestation(PROVIDER, name_of(signed.body), outcome=outcome, **counted)
        self.answered[number] = said
        self.working[number] = Unvouched(award=signed, attestation=said.signed)
        self.payee.attested(number, said.signed)

    @precondition(lambda self: any(not self.is_vouched(number) for number in self.answered))
    @rule(data=st.data(), counted=st.integers(0, 250), latency_ms=st.sampled_from([5_100, 60_000]))
    def client_vouches(self, data, counted, latency_ms) -> None:
        """What it got, or that nothing came; kept before it is sent."""
        number = data.draw(st.sampled_from(sorted(n for n in self.answered if not self.is_vouched(n))))
        receipt = make_receipt(
            CLIENT, self.answered[number].body.award, usage=usage(1_000, 200, counted), latency_ms=latency_ms
        )
        self.bought.append(self.payer.vouch(number, self.answered[number], receipt))

    @precondition(lambda self: self.bought)
    @rule(data=st.data())
    def a_voucher_arrives(self, data) -> None:
        """In any order, and again: only the next one is taken."""
        index = data.draw(st.integers(0, len(self.bought) - 1))
        kept = self.bought[index]
        if index != self.payee.count:
            with pytest.raises(Conflict, match="not the next"):
                self.payee.hear(kept.receipt, kept.voucher)
            return
        self.payee.hear(kept.receipt, kept.voucher)
        self.sold.append(kept)
        del self.working[kept.receipt.award.body.number]
        del self.answered[kept.receipt.award.body.number]

    @rule()
    def the_client_hears_how_many_came(self) -> None:
        self.payer.is_heard(self.payee.count)

    @invariant()
    def whatever_happens_now_the_provider_is_paid_what_it_is_owed(self) -> None:
        """At the tab's end, with what it has: each answer once, by its voucher or in full, and within the lock."""
        now_ms = NOW + 60_000
        settlement = self.payee.settlement(now_ms)
        vouched = sum(_paid(kept) for kept in self.sold)
        said = [one for one in self.working.values() if isinstance(one, Unvouched)]
        claimed = sum(worth(RULE, one.award.body.award, one.attestation.body, None).paid_micro for one in said)
        trial = Ledger(State.restore(REGISTRY, self.ledger.state.snapshot(), self.ledger.state.root()))
        trial.mark(now_ms)
        trial.submit(PROVIDER, settlement)
        assert 1_000_000 - trial.state.account(CLIENT.account).available_micro == vouched + claimed <= LOCKED_MICRO


def _paid(kept: Kept) -> int:
    receipt = kept.receipt
    return worth(RULE, receipt.award.body.award, receipt.attestation.body, receipt.receipt.body).paid_micro


def test_a_tab_survives_whatever_is_lost_and_whoever_dies():
    """No number twice, no answer paid twice or for nothing, nothing beyond the lock: at every step of any history."""
    run_state_machine_as_test(
        Tabs,
        settings=settings(
            max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )
