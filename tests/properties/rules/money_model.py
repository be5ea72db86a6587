"""What a child would say that money does: four dictionaries, and the arithmetic on paper.

It knows neither contracts nor rows. ``free`` is what each account can spend, ``locks`` what each open award holds,
``bonds`` what stands behind each listed offer, ``unbonding`` what stood behind one that is gone.
"""

from dataclasses import dataclass, field

from wwwmarket.domain.records import Attestation, Award, Offer, Receipt

ANSWER_MS = 30_000
MICRO = 1_000_000
NO_SHOW_PARTS = 20


@dataclass
class Lock:
    client: str
    provider: str
    award: Award
    disputed: bool = False


@dataclass
class Bond:
    provider: str
    whole: int
    left: int
    until_ms: int
    """When the offer ends; of one that has ended, when the bond is free."""


@dataclass
class Model:
    operator: str
    fee_ppm: int
    unbonding_ms: int
    now_ms: int
    free: dict[str, int]
    locks: dict[str, Lock] = field(default_factory=dict)
    bonds: dict[str, Bond] = field(default_factory=dict)
    unbonding: dict[str, Bond] = field(default_factory=dict)
    second: bool = True
    """Whether the newest contracts are in force: refunds, fees, disputes, bonds that outlive offers."""
    closed: set[str] = field(default_factory=set)

    def total(self) -> int:
        held = sum(lock.award.locked_micro for lock in self.locks.values())
        bonded = sum(bond.left for table in (self.bonds, self.unbonding) for bond in table.values())
        return sum(self.free.values()) + held + bonded

    def locked(self, account: str) -> int:
        return sum(lock.award.locked_micro for lock in self.locks.values() if lock.client == account)

    def bonded(self, account: str) -> int:
        tables = (self.bonds, self.unbonding)
        return sum(bond.left for table in tables for bond in table.values() if bond.provider == account)

    # What may happen, and what comes of it. Each pair: may_…, then …

    def may_transfer(self, source: str, target: str, amount: int) -> bool:
        return source != target and self.free[source] >= amount

    def transfer(self, source: str, target: str, amount: int) -> None:
        self.free[source] -= amount
        self.free[target] += amount

    def may_list(self, provider: str, offer: Offer) -> bool:
        few = sum(bond.provider == provider for bond in self.bonds.values()) < 64
        return few and offer.valid_until_ms > self.now_ms and self.free[provider] >= offer.bond_micro

    def list(self, name: str, provider: str, offer: Offer) -> None:
        self.free[provider] -= offer.bond_micro
        self.bonds[name] = Bond(provider, offer.bond_micro, offer.bond_micro, offer.valid_until_ms)

    def may_withdraw(self, author: str, offer: str) -> bool:
        return offer in self.bonds and self.bonds[offer].provider == author

    def end_offer(self, offer: str) -> None:
        bond = self.bonds.pop(offer)
        if not self.second:
            self.free[bond.provider] += bond.left
        elif bond.left:
            bond.until_ms = self.now_ms + self.unbonding_ms
            self.unbonding[offer] = bond

    def may_award(self, author: str, award: Award) -> bool:
        """Of an award whose prices and lock are the auction's."""
        winner, rival = award.winner, award.runner_up
        shown = [winner] if rival is None else [winner, rival]
        return (
            award.bid.client == author
            and award.bid.expires_ms >= self.now_ms
            and all(ask.body.offer in self.bonds for ask in shown)
            and all(self.bonds[ask.body.offer].provider == ask.signer for ask in shown)
            and (rival is None or rival.signer != winner.signer)
            and self.now_ms <= award.claim_after_ms < award.expires_ms
            and self.free[author] >= award.locked_micro
        )

    def award(self, name: str, award: Award) -> None:
        assert 0 <= award.locked_micro <= award.bid.max_price_micro
        self.free[award.bid.client] -= award.locked_micro
        self.locks[name] = Lock(award.bid.client, award.winner.signer, award)

    def may_settle(self, author: str, name: str, attestation: Attestation, signer: str, receipt_by: str | None) -> bool:
        lock = self.locks.get(name)
        if lock is None or author not in {lock.client, lock.provider} or signer != lock.provider:
            return False
        if receipt_by is not None:
            return receipt_by == lock.client
        alone = author == lock.provider and self.now_ms >= lock.award.claim_after_ms
        return attestation.outcome == "failed" or alone

    def settle(self, name: str, attestation: Attestation, receipt: Receipt | None) -> None:
        lock = self.locks.pop(name)
        assert name not in self.closed, "an award is settled once"
        self.closed.add(name)
        paid = self.price(lock.award, attestation, receipt)
        fee = paid * self.fee_ppm // MICRO if self.second and lock.client != lock.provider else 0
        self.free[lock.client] += lock.award.locked_micro - paid
        self.free[lock.provider] += paid - fee
        self.free[self.operator] += fee

    def price(self, award: Award, attestation: Attestation, receipt: Receipt | None) -> int:
        if attestation.outcome == "failed":
            return 0
        said = [attestation.usage] if receipt is None else [attestation.usage, receipt.usage]
        tokens_in = min(award.bid.max_input_tokens, *(usage.input_tokens for usage in said))
        cached = min(tokens_in, max(usage.cached_input_tokens for usage in said))
        tokens_out = min(award.bid.max_output_tokens, *(usage.output_tokens for usage in said))
        whole = (tokens_in - cached) * award.prices.input_micro_per_mtok
        whole += cached * award.prices.cached_input_micro_per_mtok + tokens_out * award.prices.output_micro_per_mtok
        cost = min((whole + MICRO - 1) // MICRO, award.locked_micro)
        return cost if receipt is None or not self.second else cost - self.refund(award, receipt, tokens_out, cost)

    @staticmethod
    def refund(award: Award, receipt: Receipt, tokens_out: int, cost: int) -> int:
        bid, ask = award.bid, award.winner.body

        def late(actual: int, due: int) -> int:
            return max(0, actual - due - due // 10 - 1_000)

        end_ms = bid.slo.ttft_ms + bid.slo.tpot_ms * tokens_out
        spoken_ms = max(ask.predicted_finish_ms - ask.predicted_ttft_ms, 0)
        predicted_ms = ask.predicted_ttft_ms + spoken_ms * tokens_out // max(bid.expected_output_tokens, 1)
        shares = (
            late(receipt.ttft_ms or 0, bid.slo.ttft_ms) * MICRO // max(bid.slo.ttft_ms, 1),
            late(receipt.latency_ms, end_ms) * MICRO // max(end_ms, 1),
        )
        worth = bid.time_value_micro_per_s * late(receipt.latency_ms, predicted_ms) // 1_000
        return min(cost * min(max(shares), MICRO) // MICRO + worth, cost // 2)

    def may_dispute(self, author: str, name: str) -> bool:
        lock = self.locks.get(name)
        if lock is None or author != lock.client or lock.disputed or not self.second:
            return False
        return lock.award.claim_after_ms <= self.now_ms <= lock.award.expires_ms - ANSWER_MS

    def mark(self, now_ms: int) -> None:
        """Time moves: locks fall, offers end, bonds are free, in this order."""
        self.now_ms = now_ms
        for name in [name for name, lock in self.locks.items() if lock.award.expires_ms <= now_ms]:
            lock = self.locks.pop(name)
            self.closed.add(name)
            self.free[lock.client] += lock.award.locked_micro
            if lock.disputed:
                self.penalise(lock)
        for offer in [offer for offer, bond in self.bonds.items() if bond.until_ms <= now_ms]:
            self.end_offer(offer)
        for offer in [offer for offer, bond in self.unbonding.items() if bond.until_ms <= now_ms]:
            bond = self.unbonding.pop(offer)
            self.free[bond.provider] += bond.left

    def penalise(self, lock: Lock) -> None:
        """A twentieth of the bond, rounded up, while something is left."""
        offer = lock.award.winner.body.offer
        bond = self.bonds.get(offer) or self.unbonding.get(offer)
        if bond is not None:
            taken = min((bond.whole + NO_SHOW_PARTS - 1) // NO_SHOW_PARTS, bond.left)
            bond.left -= taken
            self.free[lock.client] += taken
