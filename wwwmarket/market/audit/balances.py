"""What accounts hold: that it adds up (check 14), is held for something (15), and is what others claim (16)."""

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from wwwmarket.domain.book import Account, AccountRow, ListedOffer, OpenAward, OpenTab, Row, Unbonding
from wwwmarket.domain.identity import AccountId, EntryId
from wwwmarket.domain.quantity import MicroCredits, Millis
from wwwmarket.domain.shape import Value
from wwwmarket.market.audit.events import BalanceClaimed
from wwwmarket.market.audit.findings import Check, Findings
from wwwmarket.rules.tables import Tables

NO_TABS: Final[Mapping[EntryId, OpenTab]] = MappingProxyType({})


class Fault(Value):
    message: str
    account: AccountId | None = None


def conservation_fault(accounts: Mapping[AccountId, Account], total_micro: MicroCredits) -> Fault | None:
    """Check 14: the first account that owes, or that all together hold another amount than ``total_micro``."""
    held_micro = 0
    for name, account in accounts.items():
        parts = (account.available_micro, account.locked_micro, account.bonded_micro)
        if min(parts) < 0:
            return Fault(message=f"the account holds {min(parts)} micro-credits", account=name)
        held_micro += sum(parts)
    if held_micro != total_micro:
        return Fault(message=f"all accounts hold {held_micro} micro-credits where there are {total_micro}")
    return None


def expiry_fault(state: Tables) -> Fault | None:
    """Check 15: the first award or offer that outlived its expiry, or the first account that holds for none."""
    return holding_fault(
        state.accounts(), state.awards(), state.offers(), state.unbondings(), state.now_ms, state.tabs()
    )


def holding_fault(  # noqa: PLR0913, PLR0917 - the tables of a state
    accounts: Mapping[AccountId, Account],
    awards: Mapping[EntryId, OpenAward],
    offers: Mapping[EntryId, ListedOffer],
    unbondings: Mapping[EntryId, Unbonding],
    now_ms: Millis,
    tabs: Mapping[EntryId, OpenTab] = NO_TABS,
) -> Fault | None:
    """Check 15 over rows: ``now_ms`` is the ledger's time."""
    locked: Counter[AccountId] = Counter()
    bonded: Counter[AccountId] = Counter()
    for award, opened in awards.items():
        if opened.award.expires_ms <= now_ms:
            return Fault(message=f"award {award} is open past its expiry", account=opened.client)
        locked[opened.client] += opened.award.locked_micro
    for name, tab in tabs.items():
        if tab.expires_ms <= now_ms:
            return Fault(message=f"tab {name} is open past its expiry", account=tab.client)
        locked[tab.client] += tab.locked_micro
    for offer, listed in offers.items():
        if listed.offer.valid_until_ms <= now_ms:
            return Fault(message=f"offer {offer} is listed past its end", account=listed.provider)
        bonded[listed.provider] += listed.bonded_micro
    for unbonding in unbondings.values():
        bonded[unbonding.provider] += unbonding.amount_micro
    for holder, account in accounts.items():
        if (account.locked_micro, account.bonded_micro) != (locked[holder], bonded[holder]):
            return Fault(message="the account's locks and bonds are not those of its awards and offers", account=holder)
    return None


class Balances:
    """Check 16: a claim holds if the account holds that much when it is heard, or comes to hold it later.

    So a claim may be about a ledger that is already longer than what was read: read on, and what is still disputed at
    the end was never true.
    """

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._disputed: dict[AccountId, BalanceClaimed] = {}

    @property
    def disputed(self) -> frozenset[AccountId]:
        return frozenset(self._disputed)

    def hear(self, claim: BalanceClaimed, held: Account) -> None:
        self._findings.examine(Check.BALANCES)
        if not _agrees(claim, held):
            self._disputed[claim.account] = claim

    def move(self, rows: Iterable[Row]) -> None:
        if not self._disputed:
            return
        for row in rows:
            if isinstance(row, AccountRow) and row.id in self._disputed and _agrees(self._disputed[row.id], row.value):
                del self._disputed[row.id]

    def end(self, accounts: Mapping[AccountId, Account]) -> None:
        for name, claim in self._disputed.items():
            self._findings.add(
                Check.BALANCES,
                f"claimed: {_told(claim)}; replayed: {_told(accounts.get(name, Account()))}",
                account=name,
            )
        self._disputed.clear()


def _agrees(claim: BalanceClaimed, held: Account) -> bool:
    return (
        claim.available_micro == held.available_micro
        and claim.locked_micro in {None, held.locked_micro}
        and claim.bonded_micro in {None, held.bonded_micro}
    )


def _told(balance: BalanceClaimed | Account) -> str:
    parts = {
        "available": balance.available_micro,
        "locked": balance.locked_micro,
        "bonded": balance.bonded_micro,
    }
    return ", ".join(f"{amount} {name}" for name, amount in parts.items() if amount is not None) + " micro-credits"
