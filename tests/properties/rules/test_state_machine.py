"""The state against a model of dictionaries that a child could check: money moves as the model says, or not at all."""

from contextlib import suppress

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from tests.unit.rules.world import (
    CLIENT,
    NOW,
    OPERATOR,
    PEOPLE,
    PROVIDER,
    REGISTRY,
    RIVAL,
    Ledger,
    consent,
    key,
    make_ask,
    make_attestation,
    make_award,
    make_bid,
    make_offer,
    make_receipt,
    make_settlement,
    make_voucher,
    prices,
    usage,
)
from wwwmarket.domain.errors import Forbidden, Refusal
from wwwmarket.domain.keys import Rotation
from wwwmarket.domain.quantity import Slo
from wwwmarket.domain.records import Dispute, Parameters, TabOpening, TabSettlement, Transfer, Withdrawal
from wwwmarket.market.audit.balances import expiry_fault
from wwwmarket.rules.state import State

GRANT = 1_000_000
FEE_PERCENT = 3
UNBONDING_MS = 20_000
ANSWER_MS = 30_000
DAY_MS = 86_400_000
people = st.sampled_from(PEOPLE)
providers = st.sampled_from((PROVIDER, RIVAL, CLIENT))


class Market(RuleBasedStateMachine):
    """``free``, ``bonds``, ``unbonding``, ``locks`` and ``tabs`` are the whole truth: who has what, under which offer, for
    which award or tab. ``disputed`` are the awards of which nothing came; ``keys`` is what each person signs with now.
    """

    offers = Bundle("offers")
    awards = Bundle("awards")
    tabs = Bundle("tabs")

    def __init__(self) -> None:
        super().__init__()
        parameters = Parameters(fee_ppm=FEE_PERCENT * 10_000, unbonding_ms=UNBONDING_MS)
        self.ledger = Ledger.begun(parameters=parameters)
        self.free = {person.account: GRANT for person in PEOPLE}
        self.bonds = {}
        self.unbonding = {}
        self.locks = {}
        self.open_tabs = {}
        self.keys = {person.account: person for person in PEOPLE}
        self.disputed = set()
        self.settled = []

    @property
    def now_ms(self) -> int:
        return self.ledger.state.now_ms

    def attempt(self, author, body, *, allowed: bool):
        """Submit; the ledger must agree with the model on whether that is allowed. Returns the entry's id, or None."""
        before, name, refusal = self.ledger.state.root(), None, None
        try:
            name = self.ledger.submit(self.keys[author.account], body).checked.id
        except Refusal as answer:
            refusal = answer
        assert (refusal is None) == allowed, refusal or body
        assert refusal is None or self.ledger.state.root() == before
        return name

    @initialize(target=offers)
    def market_opens(self):
        """Each provider has an offer for the whole day, so that there is something to award."""
        return multiple(*(self.list_offer(provider, 5, DAY_MS) for provider in (PROVIDER, RIVAL, CLIENT)))

    @rule(author=people, to=people, amount=st.integers(1, 50) | st.integers(GRANT - 50, 2 * GRANT))
    def transfer(self, author, to, amount):
        allowed = author is not to and self.free[author.account] >= amount
        if self.attempt(author, Transfer(to=to.account, amount_micro=amount), allowed=allowed):
            self.free[author.account] -= amount
            self.free[to.account] += amount

    @rule(person=people, replaced=st.booleans())
    def rotate(self, person, replaced):
        """The operator's key stays; a key that was replaced puts nothing in its place."""
        before = self.keys[person.account]
        following = key(f"after {before.account}")
        body = Rotation(account=person.account, consent=consent(following, person))
        if replaced and before is not person:
            root = self.ledger.state.root()
            with suppress(Forbidden):
                self.ledger.submit(person, body)
                raise AssertionError
            assert self.ledger.state.root() == root
        elif self.attempt(person, body, allowed=person is not OPERATOR):
            self.keys[person.account] = following

    @rule(
        target=tabs, amount=st.integers(1, 50) | st.just(2 * GRANT), life_ms=st.integers(0, 60_000), own=st.booleans()
    )
    def open_tab(self, amount, life_ms, own):
        provider = CLIENT if own else PROVIDER
        body = TabOpening(provider=provider.account, locked_micro=amount, expires_ms=self.now_ms + life_ms)
        allowed = not own and life_ms > 0 and self.free[CLIENT.account] >= amount
        name = self.attempt(CLIENT, body, allowed=allowed)
        if name is None:
            return multiple()
        self.free[CLIENT.account] -= amount
        self.open_tabs[name] = body
        return name

    @rule(tab=tabs, author=st.sampled_from((PROVIDER, RIVAL)), cost=st.integers(0, 60), refund=st.integers(-1, 60))
    def settle_tab(self, tab, author, cost, refund):
        opening, paid = self.open_tabs.get(tab), cost - min(refund, cost)
        voucher = make_voucher(self.keys[CLIENT.account], tab, cost_micro=cost, paid_micro=paid)
        body = TabSettlement(tab=tab, voucher=voucher)
        allowed = opening is not None and author is PROVIDER and refund >= 0 and paid <= opening.locked_micro
        if self.attempt(author, body, allowed=allowed):
            fee = paid * FEE_PERCENT // 100
            self.free[CLIENT.account] += opening.locked_micro - paid
            self.free[PROVIDER.account] += paid - fee
            self.free[OPERATOR.account] += fee
            del self.open_tabs[tab]

    @rule(target=offers, author=providers, bond=st.integers(0, 10) | st.just(GRANT), life_ms=st.integers(-2, 100_000))
    def offer(self, author, bond, life_ms):
        name = self.list_offer(author, bond, life_ms)
        return multiple() if name is None else name

    def list_offer(self, author, bond, life_ms):
        body = make_offer(bond_micro=bond, valid_from_ms=NOW - 10, valid_until_ms=self.now_ms + life_ms)
        allowed = life_ms > 0 and self.free[author.account] >= bond
        name = self.attempt(author, body, allowed=allowed)
        if name is not None:
            self.free[author.account] -= bond
            self.bonds[name] = (author, bond, body)
        return name

    def end_offer(self, offer):
        author, left, body = self.bonds.pop(offer)
        if left:
            self.unbonding[offer] = (author, left, body.bond_micro, self.now_ms + UNBONDING_MS)

    @rule(author=people, offer=offers)
    def withdraw(self, author, offer):
        allowed = offer in self.bonds and self.bonds[offer][0] is author
        if self.attempt(author, Withdrawal(offer=offer), allowed=allowed):
            self.end_offer(offer)

    @rule(
        target=awards,
        offer=offers,
        rival=st.none() | offers,
        claim_ms=st.integers(-1, 30_000),
        life_ms=st.integers(1, 60_000),
        dear=st.booleans(),
    )
    def award(self, offer, rival, claim_ms, life_ms, dear):
        if offer not in self.bonds or (rival is not None and rival not in self.bonds):
            return multiple()
        provider, _, listed = self.bonds[offer]
        size = 30_000 if dear else 1_000
        bid = make_bid(
            max_input_tokens=size,
            max_output_tokens=10,
            expected_output_tokens=10,
            max_price_micro=10**9,
            slo=Slo(ttft_ms=1_000, tpot_ms=1_000),
            expires_ms=self.now_ms + 5,
        )
        winner = make_ask(self.keys[provider.account], bid, offer)
        runner_up = None
        if rival is not None:
            by = self.keys[self.bonds[rival][0].account]
            runner_up = make_ask(by, bid, rival, prices=prices(150_000, 40_000, 500_000))
        claim_after_ms = self.now_ms + claim_ms
        body = make_award(
            bid, winner, listed, runner_up, claim_after_ms=claim_after_ms, expires_ms=claim_after_ms + life_ms
        )
        allowed = (
            claim_ms >= 0
            and self.free[CLIENT.account] >= body.locked_micro
            and (rival is None or self.bonds[rival][0] is not provider)
        )
        name = self.attempt(CLIENT, body, allowed=allowed)
        if name is None:
            return multiple()
        self.free[CLIENT.account] -= body.locked_micro
        self.locks[name] = (provider, body)
        return name

    @rule(award=awards, author=st.sampled_from((CLIENT, PROVIDER)))
    def dispute(self, award, author):
        _, body = self.locks.get(award, (None, None))
        allowed = (
            body is not None
            and author is CLIENT
            and award not in self.disputed
            and body.claim_after_ms <= self.now_ms <= body.expires_ms - ANSWER_MS
        )
        if self.attempt(author, Dispute(award=award), allowed=allowed):
            self.disputed.add(award)

    @rule(
        award=awards,
        author=st.sampled_from((CLIENT, PROVIDER, RIVAL)),
        receipt=st.booleans(),
        outcome=st.sampled_from(["completed", "cancelled", "failed"]),
        counts=st.tuples(*[st.integers(0, 1_500)] * 3),
        times=st.tuples(st.none() | st.integers(0, 4_000), st.integers(0, 30_000)),
    )
    def settle(self, award, author, receipt, outcome, counts, times):  # noqa: PLR0917 - one settlement
        provider, body = self.locks.get(award, (PROVIDER, None))
        counted = usage(*((0, 0, 0) if outcome == "failed" else counts))
        attestation = make_attestation(self.keys[provider.account], award, outcome=outcome, usage=counted)
        received = make_receipt(self.keys[CLIENT.account], award, usage=counted, ttft_ms=times[0], latency_ms=times[1])
        settlement = make_settlement(award, attestation, received if receipt else None)
        allowed = (
            body is not None
            and author in {CLIENT, provider}
            and (receipt or outcome == "failed" or (author is provider and self.now_ms >= body.claim_after_ms))
        )
        if self.attempt(author, settlement, allowed=allowed):
            paid = 0 if outcome == "failed" else min(self.price_of(body, *counts), body.locked_micro)
            if receipt:
                paid -= self.refund_of(body, paid, min(counts[2], 10), *times)
            fee = 0 if provider is CLIENT else paid * FEE_PERCENT // 100
            self.free[CLIENT.account] += body.locked_micro - paid
            self.free[provider.account] += paid - fee
            self.free[OPERATOR.account] += fee
            del self.locks[award]
            self.settled.append(award)
            self.disputed.discard(award)

    @staticmethod
    def refund_of(body, cost, output_tokens, ttft_ms, latency_ms):
        """Late is what is over the objective, a tenth of it and a second; the bid's objective is 1 s and 1 s a token."""

        def late(actual, objective):
            return max(0, actual - objective - objective // 10 - 1_000)

        end_ms = 1_000 + 1_000 * output_tokens
        ask = body.winner.body
        predicted_ms = ask.predicted_ttft_ms + (ask.predicted_finish_ms - ask.predicted_ttft_ms) * output_tokens // 10
        share_ppm = max(late(ttft_ms or 0, 1_000) * 1_000, late(latency_ms, end_ms) * 1_000_000 // end_ms)
        worth = body.bid.time_value_micro_per_s * late(latency_ms, predicted_ms) // 1_000
        return min(cost * min(share_ppm, 1_000_000) // 1_000_000 + worth, cost // 2)

    @staticmethod
    def price_of(body, input_tokens, cached, output_tokens):
        input_tokens, output_tokens = min(input_tokens, body.bid.max_input_tokens), min(output_tokens, 10)
        cached = min(cached, input_tokens)
        whole = (
            (input_tokens - cached) * body.prices.input_micro_per_mtok
            + cached * body.prices.cached_input_micro_per_mtok
            + output_tokens * body.prices.output_micro_per_mtok
        )
        return (whole + 999_999) // 1_000_000

    @rule(step_ms=st.integers(0, 40_000))
    def mark(self, step_ms):
        self.ledger.mark(self.now_ms + step_ms)
        for name, (_, body) in list(self.locks.items()):
            if body.expires_ms <= self.now_ms:
                self.free[CLIENT.account] += body.locked_micro
                del self.locks[name]
                if name in self.disputed:
                    self.disputed.discard(name)
                    self.penalise(body.winner.body.offer)
        for name, body in list(self.open_tabs.items()):
            if body.expires_ms <= self.now_ms:
                self.free[CLIENT.account] += body.locked_micro
                del self.open_tabs[name]
        for name, (_, _, body) in list(self.bonds.items()):
            if body.valid_until_ms <= self.now_ms:
                self.end_offer(name)
        for name, (author, left, _, until_ms) in list(self.unbonding.items()):
            if until_ms <= self.now_ms:
                self.free[author.account] += left
                del self.unbonding[name]

    def penalise(self, offer):
        """A twentieth of the bond, rounded up, while something is left of it."""
        if offer in self.bonds:
            author, left, body = self.bonds[offer]
            taken = min(-(-body.bond_micro // 20), left)
            self.bonds[offer] = (author, left - taken, body)
        elif offer in self.unbonding:
            author, left, whole, until_ms = self.unbonding[offer]
            taken = min(-(-whole // 20), left)
            self.unbonding[offer] = (author, left - taken, whole, until_ms)
        else:
            return
        self.free[CLIENT.account] += taken

    @rule()
    def restart(self):
        """A replica that starts from a snapshot goes on in the ledger's place."""
        state = self.ledger.state
        self.ledger = Ledger(State.restore(REGISTRY, state.snapshot(), state.root()))

    @invariant()
    def the_state_is_the_model(self):
        state = self.ledger.state
        locked = sum(body.locked_micro for _, body in self.locks.values())
        locked += sum(body.locked_micro for body in self.open_tabs.values())
        for person in PEOPLE:
            account = state.account(person.account)
            bonded = sum(bond for author, bond, _ in self.bonds.values() if author is person)
            bonded += sum(left for author, left, _, _ in self.unbonding.values() if author is person)
            assert account.available_micro == self.free[person.account] >= 0
            assert account.locked_micro == (locked if person is CLIENT else 0)
            assert account.bonded_micro == bonded
        assert set(state.offers()) == set(self.bonds)
        assert set(state.awards()) == set(self.locks)
        assert set(state.tabs()) == set(self.open_tabs)
        assert all(state.owned_by(owner.account) == name for name, owner in self.keys.items())
        assert set(state.unbondings()) == set(self.unbonding)
        assert expiry_fault(state) is None

    @invariant()
    def credits_are_conserved(self):
        held = (a.available_micro + a.locked_micro + a.bonded_micro for a in self.ledger.state.accounts().values())
        assert sum(held) == self.ledger.state.total_micro == GRANT * len(PEOPLE)

    @invariant()
    def nothing_is_locked_past_its_expiry(self):
        assert all(opened.award.expires_ms > self.now_ms for opened in self.ledger.state.awards().values())

    @invariant()
    def an_award_settles_once(self):
        assert len(set(self.settled)) == len(self.settled)


Market.TestCase.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
TestMarket = Market.TestCase
