"""Many parties at once, by a seed: each step is an entry that the state takes or refuses as the model says it must.

Entries are made unsigned, since what is signed where is ``check``'s to find; all else goes the state's own way. Some are
sent twice, some before their turn, some forbidden; from time to time everybody crashes and comes back from what is kept.
"""

from collections import Counter
from hashlib import sha256
from random import Random

from tests.properties.rules.money_model import Model
from tests.unit.rules.world import (
    NOW,
    REGISTRY,
    facts_of,
    make_bid,
    make_genesis,
    make_offer,
    prices,
    usage,
)
from wwwmarket.crypto.digest import digest
from wwwmarket.domain.committee import Committee, Member
from wwwmarket.domain.errors import Refusal
from wwwmarket.domain.model import EngineFingerprint
from wwwmarket.domain.quantity import INTEGER_MAX, Slo
from wwwmarket.domain.records import (
    Ask,
    Attestation,
    Award,
    Certified,
    Decree,
    Dispute,
    Grant,
    Mark,
    Mint,
    Parameters,
    Receipt,
    Settlement,
    Signed,
    Transfer,
    Upgrade,
    Withdrawal,
)
from wwwmarket.market.audit.balances import conservation_fault, expiry_fault
from wwwmarket.market.statement import Reader, balance_of
from wwwmarket.rules.check import Checked
from wwwmarket.rules.state import State

GRANT = 2_000_000
PARTIES = 12
UNSIGNED = "0" * 128
FIRST = {rule: source for rule, source in REGISTRY.hashes.items() if rule.endswith("/v1")}
SECOND = REGISTRY.latest
ENGINE = EngineFingerprint(engine="vllm", engine_version="1", model_revision="main", precision="bf16", gpu_class="H100")
OUTCOMES = ("completed", "completed", "cancelled", "failed")


def name_of(text: str) -> str:
    return sha256(text.encode()).hexdigest()


class Crowd:
    def __init__(self, seed: int) -> None:
        self.chance = chance = Random(seed)
        self.parties = [name_of(f"{seed}/{number}") for number in range(PARTIES)]
        self.operator = self.parties[0]
        self.member = Member(name="m", account=name_of("member"), cosigner=name_of("cosigner"), url="http://m")
        begins_second = chance.random() < 0.75
        parameters = Parameters(
            fee_ppm=chance.choice((0, 1, 30_000, 1_000_000)), unbonding_ms=chance.choice((0, 20_000))
        )
        self.genesis = make_genesis(
            operator=self.operator,
            contracts=SECOND if begins_second else FIRST,
            grants=tuple(Grant(account=party, amount_micro=GRANT) for party in self.parties),
            committee=Committee(members=(self.member,)),
            parameters=parameters,
        )
        self.model = Model(
            operator=self.operator,
            fee_ppm=parameters.fee_ppm,
            unbonding_ms=parameters.unbonding_ms,
            now_ms=0,
            free=dict.fromkeys(self.parties, GRANT),
            second=begins_second,
        )
        self.state = State(REGISTRY)
        self.log: list[Checked] = []
        self.kept: tuple[int, bytes, str] | None = None
        self.early: list[Checked] = []
        self.offers: dict[str, object] = {}
        self.awards: list[str] = []
        self.terms: dict[str, Award] = {}
        self.done: Counter[str] = Counter()
        self._made = 0
        self.send(self.operator, self.genesis, allowed=True)
        self.mark()
        for party in self.parties[1:5]:
            self.offer(party, bond=chance.choice((0, 1, 100, 5_000)), life_ms=10**8)

    # The world's hand

    def step(self) -> None:
        kinds, weights = zip(*_KINDS.items(), strict=True)
        (kind,) = self.chance.choices(kinds, weights)
        getattr(self, kind)()
        if self.chance.random() < 0.0005:
            self.crash()

    def entry(self, author: str, body: object, *, ahead: int = 0) -> Checked:
        self._made += 1
        seq, prev = self.state.chain_head(author)
        facts = facts_of(body) if isinstance(body, Award) else None
        certifiers = frozenset({self.member.account}) if isinstance(body, Decree) else None
        name = name_of(f"{self.operator}/{self._made}")
        return Checked(
            id=name, account=author, seq=seq + ahead, prev=prev, body=body, facts=facts, certifiers=certifiers
        )

    def send(self, author: str, body: object, *, allowed: bool) -> str | None:
        """The state must agree with the model on whether this may be. Gives the entry's name where it was taken."""
        checked = self.entry(author, body)
        kind = type(body).__name__.lower()
        taken = self.put(checked, kind)
        assert taken == allowed, (kind, taken, body)
        return checked.id if taken else None

    def put(self, checked: Checked, kind: str) -> bool:
        state = self.state
        watched = self.chance.random() < 0.01
        before = state.root() if watched else None
        try:
            state.apply(checked)
        except Refusal:
            assert before is None or state.root() == before, "a refused entry changes nothing"
            self.done[f"{kind} refused"] += 1
            return False
        self.log.append(checked)
        self.done[kind] += 1
        return True

    def again(self) -> None:
        """An entry that was taken comes once more: its place is taken."""
        assert not self.put(self.chance.choice(self.log), "duplicate")

    def overtaken(self) -> None:
        """Two entries of one account arrive in the wrong order: the later one waits for its place."""
        author, target = self.chance.sample(self.parties, 2)
        body = Transfer(to=target, amount_micro=1)
        assert not self.put(self.entry(author, body, ahead=1), "overtaking")

    def crash(self) -> None:
        """Everything in memory is gone; a kept snapshot and the log after it, or the log alone, give the same state."""
        start, state = 0, State(REGISTRY)
        if self.kept is not None:
            start, snapshot, root = self.kept
            state = State.restore(REGISTRY, snapshot, root)
        for checked in self.log[start:]:
            state.apply(checked)
        assert state.root() == self.state.root()
        self.state = state
        self.kept = (len(self.log), state.snapshot(), state.root())
        self.done["crash"] += 1

    # What parties do

    def transfer(self) -> None:
        source, target = self.chance.choice(self.parties), self.chance.choice(self.parties)
        free = self.model.free[source]
        amount = self.chance.choice((1, self.chance.randint(1, 5_000), max(1, free), free + 1, INTEGER_MAX))
        if amount > 5_000 and self.chance.random() < 0.9:
            amount = self.chance.randint(1, 5_000)
        allowed = self.model.may_transfer(source, target, amount)
        if self.send(source, Transfer(to=target, amount_micro=amount), allowed=allowed):
            self.model.transfer(source, target, amount)

    def offer(self, party: str | None = None, *, bond: int | None = None, life_ms: int | None = None) -> None:
        party = party or self.chance.choice(self.parties)
        body = make_offer(
            bond_micro=self.chance.choice((0, 1, 19, 20, 21, 7_777)) if bond is None else bond,
            valid_from_ms=NOW - 10,
            valid_until_ms=self.model.now_ms + (self.chance.randint(-2, 600_000) if life_ms is None else life_ms),
        )
        allowed = self.model.may_list(party, body) and body.valid_until_ms > body.valid_from_ms
        allowed = allowed and body.valid_until_ms - body.valid_from_ms <= 30 * 86_400_000
        name = self.send(party, body, allowed=allowed)
        if name is not None:
            self.offers[name] = body
            self.model.list(name, party, body)

    def withdrawal(self) -> None:
        offer, author = self.chance.choice(list(self.offers)), self.chance.choice(self.parties)
        if offer in self.model.bonds and self.chance.random() < 0.5:
            author = self.model.bonds[offer].provider
        allowed = self.model.may_withdraw(author, offer)
        if self.send(author, Withdrawal(offer=offer), allowed=allowed):
            self.model.end_offer(offer)
        if offer not in self.model.bonds and len(self.offers) > 40:
            del self.offers[offer]

    def award(self) -> None:
        client, now_ms, chance = self.chance.choice(self.parties), self.model.now_ms, self.chance
        listed = list(self.model.bonds)
        names = [chance.choice(listed if listed and chance.random() < 0.95 else list(self.offers)) for _ in range(2)]
        bid = make_bid(
            client=client,
            max_input_tokens=chance.choice((1_000, 1_200, 30_000)),
            max_output_tokens=chance.choice((10, 500)),
            expected_output_tokens=chance.randint(0, 10),
            max_price_micro=10**9,
            time_value_micro_per_s=chance.choice((0, 10, 10_000)),
            slo=Slo(ttft_ms=1_000, tpot_ms=1_000),
            expires_ms=now_ms + chance.randint(-1, 5),
            issued_ms=self._made,
        )
        asks = [self.ask(name, bid, level) for name, level in zip(names, (100_000, 150_000), strict=True)]
        winner, rival = asks[0], asks[1] if chance.random() < 0.7 else None
        claim_after_ms = now_ms + chance.randint(-1, 60_000)
        clearing = self.state.rules.award.clear(bid, winner.body, self.offers[names[0]], rival.body if rival else None)
        body = Award(
            bid=bid,
            winner=winner,
            runner_up=rival,
            asks=tuple(sorted(digest(ask.body) for ask in (winner, rival) if ask is not None)),
            prices=clearing.prices,
            locked_micro=clearing.locked_micro,
            claim_after_ms=claim_after_ms,
            expires_ms=claim_after_ms + chance.choice((1, 1_000, 45_000, 120_000)),
        )
        author = client if chance.random() < 0.98 else chance.choice(self.parties)
        name = self.send(author, body, allowed=self.model.may_award(author, body))
        if name is not None:
            self.model.award(name, body)
            self.terms[name] = body
            self.awards.append(name)
            if len(self.awards) > 400:
                self.terms.pop(self.awards.pop(0))

    def ask(self, offer: str, bid: object, level: int) -> Signed[Ask]:
        bond = self.model.bonds.get(offer)
        body = Ask(
            bid=digest(bid),
            offer=offer,
            prices=prices(level, level // 4, 3 * level),
            predicted_ttft_ms=200,
            predicted_finish_ms=900,
            slo=Slo(ttft_ms=500, tpot_ms=30),
            held_until_ms=NOW,
        )
        return Signed(body=body, signer=bond.provider if bond else self.parties[1], signature=UNSIGNED)

    def settlement(self) -> None:
        if not self.awards:
            return
        chance = self.chance
        name = chance.choice(self.awards[-60:] if chance.random() < 0.8 else self.awards)
        terms = self.terms[name]
        client, provider = terms.bid.client, terms.winner.signer
        author, signer, receipt_by = chance.choice((client, provider)), provider, chance.choice((client, client, None))
        if chance.random() < 0.1:
            author, signer, receipt_by = (chance.choice(self.parties) for _ in range(3))
        outcome = chance.choice(OUTCOMES)
        attestation = Attestation(
            award=name,
            outcome=outcome,
            request_digest="1" * 64,
            response_digest="2" * 64,
            usage=usage(0, 0, 0) if outcome == "failed" else self.usage(),
            engine=ENGINE,
            started_ms=0,
            first_token_ms=None,
            finished_ms=0,
        )
        receipt = Receipt(
            award=name,
            response_digest="2" * 64,
            usage=attestation.usage if chance.random() < 0.5 else self.usage(),
            ttft_ms=chance.choice((None, 0, 900, 2_500, INTEGER_MAX)),
            latency_ms=chance.choice((0, 5_000, chance.randint(0, 60_000), INTEGER_MAX)),
            verdict="agreed",
        )
        body = Settlement(
            award=name,
            attestation=Signed(body=attestation, signer=signer, signature=UNSIGNED),
            receipt=None if receipt_by is None else Signed(body=receipt, signer=receipt_by, signature=UNSIGNED),
        )
        allowed = self.model.may_settle(author, name, attestation, signer, receipt_by)
        if self.send(author, body, allowed=allowed):
            self.model.settle(name, attestation, receipt if receipt_by else None)

    def usage(self):
        return usage(*(self.chance.choice((0, 1, self.chance.randint(0, 1_500), 2**32)) for _ in range(3)))

    def dispute(self) -> None:
        if not self.awards:
            return
        name = self.chance.choice(self.awards[-100:])
        author = self.terms[name].bid.client if self.chance.random() < 0.8 else self.chance.choice(self.parties)
        if self.send(author, Dispute(award=name), allowed=self.model.may_dispute(author, name)):
            self.model.locks[name].disputed = True

    def decree(self) -> None:
        number, origin = self.state.governance.decrees, self.genesis.origin
        wrong = self.chance.random() < 0.3
        if not self.model.second and self.chance.random() < 0.2 and self.state.governance.upgrade is None:
            resolution = Upgrade(origin=origin, number=number, contracts=SECOND, from_index=self.state.size + 1)
            self.send(self.operator, self.decreed(resolution), allowed=True)
            self.model.second = True
            return
        amount, target = self.chance.randint(1, 1_000), self.chance.choice(self.parties)
        mint = Mint(origin=origin, number=number + wrong, to=target, amount_micro=amount)
        if self.send(self.chance.choice(self.parties), self.decreed(mint), allowed=not wrong):
            self.model.free[target] += amount

    @staticmethod
    def decreed(resolution: object) -> Decree:
        return Decree(resolution=Certified(body=resolution, signatures=()))

    def mark(self) -> None:
        to_ms = max(NOW, self.model.now_ms) + self.chance.choice((0, 100, self.chance.randint(0, 20_000)))
        self.send(self.operator, Mark(at_ms=to_ms, state_root=self.state.root()), allowed=True)
        self.model.mark(to_ms)
        self.compare()

    # What must be true

    def compare(self) -> None:
        """The whole state is the model; nothing is negative, nothing lost, nothing locked past its expiry."""
        state, model = self.state, self.model
        for party in self.parties:
            account = state.account(party)
            assert account.available_micro == model.free[party] >= 0
            assert account.locked_micro == model.locked(party)
            assert account.bonded_micro == model.bonded(party)
        assert set(state.awards()) == set(model.locks)
        assert set(state.offers()) == set(model.bonds)
        assert set(state.unbondings()) == set(model.unbonding)
        assert model.total() == state.total_micro
        assert conservation_fault(state.accounts(), state.total_micro) is None
        assert expiry_fault(state) is None

    def check_statements(self, accounts: int) -> None:
        """Of some accounts, read from the whole log: the lines are the balance, and the replay is the state."""
        for party in self.chance.sample(self.parties, accounts):
            reader = Reader(party, State(REGISTRY))
            lines = [line for checked in self.log if (line := reader.follow(checked)) is not None]
            assert balance_of(lines) == self.state.account(party)
            assert reader.state.root() == self.state.root()

    def check_settlements(self) -> None:
        """No award is settled by two entries of the log."""
        settled = Counter(checked.body.award for checked in self.log if isinstance(checked.body, Settlement))
        assert set(settled.values()) <= {1}


_KINDS = {
    "transfer": 20,
    "award": 22,
    "settlement": 30,
    "dispute": 5,
    "offer": 4,
    "withdrawal": 2,
    "decree": 1,
    "mark": 4,
    "again": 6,
    "overtaken": 3,
}
"""How often each kind of step comes."""
