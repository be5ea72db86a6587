"""What a node keeps of its tabs. Each step is durable before the other side hears of it; receipts stay for an audit."""

from typing import Final

from wwwmarket.domain.identity import AccountId, EntryId
from wwwmarket.domain.quantity import Count, MicroCredits, Millis
from wwwmarket.domain.records import Attestation, NodeAddress, Receipt, Signed, TabAward
from wwwmarket.domain.shape import Value

BOUGHT: Final = "tab-bought"
"""By tab."""
BOUGHT_WORK: Final = "tab-bought-work"
"""By ``place_of`` an award that was given and not vouched for."""
BOUGHT_AWARD: Final = "tab-bought-award"
"""By an award's name: where its receipt is."""
SOLD: Final = "tab-sold"
SOLD_WORK: Final = "tab-sold-work"


def bought_receipts(tab: EntryId) -> str:
    """The kind of a tab's receipts at its client, by ``number_of``; a kind of their own, since they are many."""
    return f"tab-bought-receipt/{tab}"


def sold_receipts(tab: EntryId) -> str:
    """The same at its provider."""
    return f"tab-sold-receipt/{tab}"


def number_of(number: Count) -> str:
    """Sorts as numbers do."""
    return f"{number:012d}"


def place_of(tab: EntryId, number: Count) -> str:
    return f"{tab}/{number_of(number)}"


class BoughtTab(Value):
    """``key`` opened it; ``address`` is where its provider is told."""

    client: AccountId
    provider: AccountId
    key: AccountId
    locked_micro: MicroCredits
    expires_ms: Millis
    address: NodeAddress


class BoughtWork(Value):
    """``nothing`` is the receipt of an answer that never came, until its provider has attested whatever it did."""

    award: Signed[TabAward]
    nothing: Signed[Receipt] | None = None


class BoughtAward(Value):
    tab: EntryId
    number: Count


class SoldTab(Value):
    """``ending``: no award is taken any more, since it may be settled at any moment."""

    ending: bool


class SoldWork(Value):
    award: Signed[TabAward]
    attestation: Signed[Attestation] | None
