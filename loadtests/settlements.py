"""What a request costs the ledger, settled one by one and by tabs of several sizes: bytes, and CPU.

    python loadtests/settlements.py [--requests 1000] [--sizes 1,10,100,1000] [--rounds 3]

Everything is what the market itself does, without network and disk. Ledger: the entries of these requests, opened,
checked with every signature inside, and applied, by one replica. Both sides: what client and provider do beside it for
a tab, for each answer (award, receipt and voucher signed, and checked by the other side). Audit: one who has the
receipts checks each against the voucher on the ledger. The sizes take turns within each round, and the median is shown.
"""

import argparse
import statistics
import time
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from msgspec.structs import replace

from tests.unit.rules.world import (
    CLIENT,
    NOW,
    PROVIDER,
    RIVAL,
    Ledger,
    make_ask,
    make_attestation,
    make_award,
    make_bid,
    make_offer,
    make_receipt,
    make_settlement,
)
from wwwmarket.crypto import canonical
from wwwmarket.crypto.signing import KeyPair, open_entry, sign_entry, verify, verify_bytes
from wwwmarket.domain.identity import EntryId
from wwwmarket.domain.records import Award, Body, Grant, TabOpening
from wwwmarket.market.tab import Payee, Payer, Tally, examine, name_of, proof_of
from wwwmarket.rules.check import check

HOUR_MS: Final = 3_600_000
RICH_MICRO: Final = 10**12


class Cost(NamedTuple):
    """Of one request: bytes on the ledger, CPU microseconds of the ledger, of both sides beside it, of an audit; bytes
    that both sides keep, and hashes that prove one of them.
    """

    ledger_bytes: float
    ledger_us: float
    sides_us: float
    audit_us: float
    kept_bytes: float
    proof_hashes: int


class Market:
    """A ledger with two offers, and a client who signs everything that follows."""

    def __init__(self) -> None:
        grants = tuple(Grant(account=person.account, amount_micro=RICH_MICRO) for person in (CLIENT, PROVIDER, RIVAL))
        self.ledger = Ledger.begun(grants=grants)
        self.offers = self.ledger.list_offers()
        self.leaves: list[bytes] = []

    def write(self, author: KeyPair, body: Body) -> EntryId:
        """Sign, and apply so that the next entry knows its place; what that takes is not measured."""
        seq, prev = self.ledger.state.chain_head(author.account)
        entry = sign_entry(author, seq=seq, prev=prev, body=body)
        self.leaves.append(canonical.encode(entry))
        return self.ledger.submit(author, body).checked.id

    def award(self, number: int) -> Award:
        """An award of an auction of its own, as they come: one winner, one runner-up."""
        bid = replace(make_bid(), request_digest=f"{number:064x}")
        winner = make_ask(PROVIDER, bid, self.offers[0])
        rival = make_ask(RIVAL, bid, self.offers[1], predicted_finish_ms=6_500)
        return make_award(bid, winner, make_offer(), rival)

    def ledger_us(self) -> float:
        """CPU of a replica that follows what was written here, nothing remembered from before."""
        state = Market().ledger.state
        verify_bytes.cache_clear()
        begun = time.process_time()
        for leaf in self.leaves:
            state.apply(check(open_entry(leaf)))
        return (time.process_time() - begun) * 1e6


def one_by_one(requests: int) -> Cost:
    market = Market()
    for number in range(requests):
        award = market.write(CLIENT, market.award(number))
        attestation = make_attestation(PROVIDER, award, request_digest=f"{number:064x}")
        market.write(CLIENT, make_settlement(award, attestation, make_receipt(CLIENT, award)))
    size = sum(map(len, market.leaves))
    return Cost(size / requests, market.ledger_us() / requests, 0, 0, 0, 0)


def by_tabs(requests: int, size: int) -> Cost:
    market, sides_s, audit_s, kept_bytes, hashes = Market(), 0.0, 0.0, 0, 0
    for _ in range(requests // size):
        opening = TabOpening(provider=PROVIDER.account, locked_micro=10**9, expires_ms=NOW + HOUR_MS)
        tab = market.write(CLIENT, opening)
        opened, rules = market.ledger.state.tab(tab), market.ledger.state.rules
        assert opened is not None, "it was just opened"
        payer = Payer(CLIENT, Tally(tab, opened, rules.settlement))
        payee = Payee(Tally(tab, opened, rules.settlement), market.ledger.state.account_of)
        awards = [market.award(number) for number in range(size)]
        verify_bytes.cache_clear()
        begun = time.process_time()
        kept = [_answer(payer, payee, award) for award in awards]
        sides_s += time.process_time() - begun
        settlement = payee.settlement(NOW)
        market.write(PROVIDER, settlement)
        assert settlement.voucher is not None, "every answer was vouched for"
        verify_bytes.cache_clear()
        begun = time.process_time()
        voucher = settlement.voucher.body
        assert not examine(tab, opened, voucher, kept, rules.settlement, market.ledger.state.account_of)
        audit_s += time.process_time() - begun
        kept_bytes += sum(map(len, kept))
        hashes = len(proof_of(kept, 0))
    ledger_bytes = sum(map(len, market.leaves)) / requests
    us = [amount * 1e6 / requests for amount in (sides_s, audit_s)]
    return Cost(ledger_bytes, market.ledger_us() / requests, us[0], us[1], kept_bytes / requests, hashes)


def _answer(payer: Payer, payee: Payee, award: Award) -> bytes:
    """One request under a tab, both sides in this process."""
    taken = payer.award(award)
    payee.take(taken.signed)
    name = name_of(taken.body)
    attestation = make_attestation(PROVIDER, name, request_digest=award.bid.request_digest)
    payee.attested(taken.body.number, attestation.signed)
    receipt = make_receipt(CLIENT, name)
    vouched = payer.vouch(taken.body.number, verify(attestation.signed), receipt)
    payee.hear(vouched.receipt, vouched.voucher)
    payer.is_heard(payee.count)
    return canonical.encode(vouched.receipt)


def median(costs: Iterable[Cost]) -> Cost:
    return Cost(*(statistics.median(column) for column in zip(*costs, strict=True)))


def table(rows: Sequence[tuple[str, Cost]]) -> str:
    head = ("settled", "ledger bytes", "ledger CPU us", "settlements/CPU s", "both sides CPU us", "audit CPU us")
    lines = [" | ".join(f"{name:>17}" for name in (*head, "kept bytes", "proof hashes"))]
    for name, cost in rows:
        numbers = (
            f"{cost.ledger_bytes:,.1f}",
            f"{cost.ledger_us:,.1f}",
            f"{1e6 / cost.ledger_us:,.0f}",
            f"{cost.sides_us:,.0f}",
            f"{cost.audit_us:,.0f}",
            f"{cost.kept_bytes:,.0f}",
            f"{cost.proof_hashes}",
        )
        lines.append(" | ".join(f"{cell:>17}" for cell in (name, *numbers)))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000)
    parser.add_argument("--sizes", default="1,10,100,1000")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    sizes = [int(size) for size in given.sizes.split(",")]
    costs: dict[str, list[Cost]] = {}
    for _ in range(given.rounds):
        costs.setdefault("one by one", []).append(one_by_one(given.requests))
        for size in sizes:
            costs.setdefault(f"tabs of {size}", []).append(by_tabs(max(given.requests, size), size))
    print("per request:")
    print(table([(name, median(measured)) for name, measured in costs.items()]))


if __name__ == "__main__":
    main()
