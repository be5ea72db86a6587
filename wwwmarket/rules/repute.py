"""What one contract needs of another: the settlement contract's sums, for tabs and for what a provider is known for."""

from wwwmarket.domain.book import Row, StandingRow, UnvouchedFacts
from wwwmarket.domain.identity import EntryId
from wwwmarket.domain.quantity import MicroCredits
from wwwmarket.domain.records import Attestation, Award, Receipt, Settlement, TabSettlement
from wwwmarket.rules.registry import Rules
from wwwmarket.rules.tables import Tables


def cost_of(rules: Rules, award: Award, attestation: Attestation, receipt: Receipt | None) -> MicroCredits:
    """What the counted tokens of an answer cost, before any refund."""
    if attestation.outcome == "failed":
        return 0
    cost = rules.settlement.cost(award.prices, rules.settlement.count(award, attestation, receipt))
    return min(cost, award.locked_micro)


def facts_of_tab(rules: Rules, body: TabSettlement, names: tuple[EntryId, ...]) -> tuple[UnvouchedFacts, ...]:
    """What the answers without a voucher cost."""
    costs = (cost_of(rules, one.award.body.award, one.attestation.body, None) for one in body.unvouched)
    return tuple(UnvouchedFacts(id=name, cost_micro=cost) for name, cost in zip(names, costs, strict=True))


def known_by_award(tables: Tables, rules: Rules, body: Settlement) -> tuple[Row, ...]:
    """The provider's standing after a settlement that follows; nobody is known by its own word."""
    opened = tables.award(body.award)
    assert opened is not None, "the contract has found it open"
    provider = opened.provider
    if rules.reputation is None or opened.client == provider:
        return ()
    attestation, receipt = body.attestation.body, None if body.receipt is None else body.receipt.body
    standing = rules.reputation.settled(
        tables.standing(provider),
        tables.now_ms,
        attestation,
        receipt,
        cost_of(rules, opened.award, attestation, receipt),
        rules.settlement.payment(opened.award, attestation, receipt),
        tables.account(provider).bonded_micro,
    )
    return (StandingRow(id=provider, value=standing),)


def known_by_tab(tables: Tables, rules: Rules, body: TabSettlement) -> tuple[Row, ...]:
    """The provider's standing after a tab is settled, by what its client vouched for."""
    opened = tables.tab(body.tab)
    assert opened is not None, "the contract has found it open"
    if rules.reputation is None or body.voucher is None:
        return ()
    voucher, provider = body.voucher.body, opened.provider
    standing = rules.reputation.together(
        tables.standing(provider),
        tables.now_ms,
        voucher.count,
        voucher.cost_micro,
        voucher.paid_micro,
        tables.account(provider).bonded_micro,
    )
    return (StandingRow(id=provider, value=standing),)
