"""Checks 7 and 9 to 15: every entry followed by the contracts, and what they made of it computed once more.

An entry that is refused is left out of the state, and the audit goes on; whatever the state then refuses because of it
is a consequence.
"""

from typing import Final, NamedTuple

from msgspec.structs import replace

from wwwmarket.domain.book import Account, OpenAward, OpenTab
from wwwmarket.domain.errors import InsufficientCredit, Refusal
from wwwmarket.domain.identity import NO_ENTRY, AccountId, EntryId
from wwwmarket.domain.keys import Delegation, Rotation
from wwwmarket.domain.records import (
    Award,
    Body,
    Decree,
    Genesis,
    Mark,
    Offer,
    Settlement,
    TabOpening,
    TabSettlement,
    Transfer,
    Withdrawal,
)
from wwwmarket.market.audit.balances import Balances, conservation_fault, expiry_fault
from wwwmarket.market.audit.findings import Check, Findings
from wwwmarket.rules.check import Checked
from wwwmarket.rules.registry import AwardRule, Registry, Rules
from wwwmarket.rules.repute import facts_of_tab
from wwwmarket.rules.state import Applied, State
from wwwmarket.rules.tables import ChainHead

SHADOW_MAX: Final = 100_000
"""Names that refused entries speak of. Beyond it everything may be a consequence, and is called one."""

_AUCTION: Final = frozenset(
    {
        "other_bid",
        "asks_unsorted",
        "ask_missing",
        "not_provider",
        "other_model",
        "context_too_small",
        "price_above_offer",
        "cached_above_input",
        "slo_missed",
        "above_max_price",
        "same_provider",
        "not_the_best",
        "wrong_prices",
        "wrong_lock",
    }
)
"""Why an award is not the outcome of its auction (``contracts/award/v1.py``)."""

_BY_STATE: Final = frozenset(
    {
        "not_open",
        "key_replaced",
        "key_in_use",
        "not_a_machine",
        "machine_key",
        "offer_not_listed",
        "not_listed",
        "too_many_offers",
        "insufficient_credit",
        "overflow",
        "other_state",
    }
)
"""Refusals for what the state lacks, and might not lack had it taken every entry before."""


def check_of(body: Body, refusal: Refusal) -> Check:
    """The check that an entry fails when the state refuses it."""
    match body:
        case _ if isinstance(refusal, InsufficientCredit) or refusal.reason == "overflow":
            check = Check.CONSERVED
        case Genesis() | Decree() if refusal.reason in {"contract_missing", "contract_differs"}:
            check = Check.CONTRACTS
        case Mark():
            check = Check.MARKS
        case Award() if refusal.reason in _AUCTION:
            check = Check.AUCTION
        case Settlement() | TabSettlement() if refusal.reason in {"not_open", "above_lock"}:
            check = Check.SETTLEMENT
        case _:
            check = Check.ACCEPTED
    return check


class Moved(NamedTuple):
    """Micro-credits: what was locked, what of it is paid, what of that is the fee."""

    locked: int
    paid: int
    fee: int


class Replay:
    def __init__(self, registry: Registry, findings: Findings) -> None:
        self.state = State(registry)
        self.balances: Final = Balances(findings)
        self.counts: Final[dict[type, int]] = dict.fromkeys((Offer, Award, Settlement, Transfer), 0)
        self._findings = findings
        self._stopped = False
        self._anchor: EntryId | None = NO_ENTRY
        self._drifted: dict[AccountId, ChainHead] = {}
        self._shadow: set[str] = set()
        self._lost = False
        self._skipped = False
        self._ends_in_mark = False
        self._looked_at = 0

    @property
    def stopped(self) -> bool:
        """Without a genesis to begin from, nothing is replayed."""
        return self._stopped

    def take_up(self, state: State) -> None:
        """Go on from the state at which another audit was put aside."""
        self.state, self._looked_at = state, state.size

    @property
    def is_whole(self) -> bool:
        """Whether the state took every entry, and the last one was a mark."""
        return self._ends_in_mark and not (self._skipped or self._stopped)

    def lose(self, index: int) -> None:
        """The entry cannot be read: nobody knows what it would have changed."""
        self._lost = self._skipped = True
        self._ends_in_mark = False
        if index == 0:
            self._stopped, self._anchor = True, None

    def follow(self, index: int, checked: Checked) -> None:
        self._ends_in_mark = isinstance(checked.body, Mark)
        if index and self._anchor == NO_ENTRY:
            self._anchor = self.state.chain_head(AccountId("")).prev
        if not self._is_in_place(index, checked):
            self._skip(checked)
            return
        if self._stopped or not self._apply(index, checked) or checked.account in self._drifted:
            self._drifted[checked.account] = ChainHead(checked.seq + 1, checked.id)

    def end(self, last: int) -> None:
        """The whole state once more, and that the checkpoint follows a mark."""
        if self._stopped:
            return
        if not self._ends_in_mark:
            self._findings.add(
                Check.MARKS, "the checkpoint does not follow a mark", entry=last, follows=self._lost or self._skipped
            )
        self._look_over(last)

    def _is_in_place(self, index: int, checked: Checked) -> bool:
        """Check 7. Of an account that went astray, the next entry is the one after its latest."""
        self._findings.examine(Check.CHAIN)
        head = self._drifted.get(checked.account) or self._first_head(checked)
        if (checked.seq, checked.prev) == head:
            return True
        self._findings.add(
            Check.CHAIN,
            f"the account's next entry is number {head.next_seq} after {head.prev}, not {checked.seq} after "
            f"{checked.prev}",
            entry=index,
            account=checked.account,
            follows=self._lost and checked.seq > head.next_seq,
        )
        if checked.seq >= head.next_seq:
            self._drifted[checked.account] = ChainHead(checked.seq + 1, checked.id)
        return False

    def _first_head(self, checked: Checked) -> ChainHead:
        if not self._stopped:
            return self.state.chain_head(checked.account)
        return ChainHead(0, checked.prev if self._anchor is None else self._anchor)

    def _apply(self, index: int, checked: Checked) -> bool:
        """Checks 9 to 15: whether the state took the entry."""
        body, state = checked.body, self.state
        self._examine(body)
        head = state.chain_head(checked.account)
        placed = checked
        if (checked.seq, checked.prev) != head:
            # The state has missed earlier entries of this account; its chain was compared above, without them.
            placed = replace(checked, seq=head.next_seq, prev=head.prev)
        settled: OpenAward | OpenTab | None = None
        if isinstance(body, Settlement):
            settled = state.award(body.award)
        elif isinstance(body, TabSettlement):
            settled = state.tab(body.tab)
        parties = (settled.client, settled.provider, state.operator) if settled else ()
        before = {account: state.account(account) for account in parties}
        rules = state.rules if state.genesis else None
        try:
            applied = state.apply(placed)
        except Refusal as refusal:
            return self._refused(index, checked, placed, refusal)
        self._took(index, applied)
        if isinstance(body, Award) and rules is not None:
            self._check_auction(index, checked, body, rules.award)
        elif isinstance(settled, OpenAward) and isinstance(body, Settlement) and rules is not None:
            self._check_award_paid(index, body, settled, before, rules)
        elif isinstance(settled, OpenTab) and isinstance(body, TabSettlement) and rules is not None:
            self._check_tab_paid(index, placed, settled, before, rules)
        return True

    def _examine(self, body: Body) -> None:
        self._findings.examine(Check.ACCEPTED)
        match body:
            case Genesis():
                self._findings.examine(Check.CONTRACTS)
            case Mark():
                self._findings.examine(Check.MARKS)
            case Award():
                self._findings.examine(Check.AUCTION)
            case Settlement() | TabSettlement():
                self._findings.examine(Check.SETTLEMENT)
            case _:
                pass

    def _took(self, index: int, applied: Applied) -> None:
        body = applied.checked.body
        if type(body) in self.counts:
            self.counts[type(body)] += 1
        self.balances.move(applied.rows)
        if isinstance(body, Mark):
            state = self.state
            rows = len(state.accounts()) + len(state.awards()) + len(state.offers()) + len(state.tabs())
            # Looking over all rows only after as many entries costs each entry no more than one row.
            if index - self._looked_at >= rows:
                self._look_over(index)

    def _refused(self, index: int, checked: Checked, placed: Checked, refusal: Refusal) -> bool:
        body = checked.body
        self._findings.add(
            check_of(body, refusal),
            refusal.message,
            entry=index,
            account=checked.account,
            follows=self._is_consequence(checked, refusal),
        )
        if isinstance(body, Mark) and refusal.reason == "other_state":
            # Ledger time goes on all the same, or everything after it would be refused too.
            self._skipped = True
            self._took(index, self.state.apply(replace(placed, body=replace(body, state_root=self.state.root()))))
            return True
        if self.state.genesis is None:
            self._stopped = True
        self._skip(checked)
        return False

    def _is_consequence(self, checked: Checked, refusal: Refusal) -> bool:
        if refusal.reason not in _BY_STATE or not self._findings.violations:
            return False
        if isinstance(checked.body, Mark):
            return self._skipped
        return self._lost or not self._shadow.isdisjoint(_names(checked))

    def _skip(self, checked: Checked) -> None:
        self._skipped = True
        self._shadow |= {checked.id, *_names(checked)}
        if len(self._shadow) > SHADOW_MAX:
            self._shadow.clear()
            self._lost = True

    def _check_auction(self, index: int, checked: Checked, award: Award, rule: AwardRule) -> None:
        """Check 12: the contract took it; its own functions say again who wins, at what price."""
        bid, winner, facts = award.bid, award.winner.body, checked.facts
        assert facts is not None, "an award is checked with its facts"
        listed = self.state.offer(winner.offer)
        runner_up = award.runner_up.body if award.runner_up else None
        if listed is None:
            fault = "the winner's offer is not listed"
        elif runner_up and (rule.score(bid, winner), facts.winner_ask_digest) >= (
            rule.score(bid, runner_up),
            facts.runner_up_ask_digest,
        ):
            fault = "the runner-up's ask is the better one"
        else:
            clearing = rule.clear(bid, winner, listed.offer, runner_up)
            if (award.prices, award.locked_micro) == (clearing.prices, clearing.locked_micro):
                return
            fault = f"the auction clears at {clearing.prices}, with a lock of {clearing.locked_micro} micro-credits"
        self._findings.add(Check.AUCTION, fault, entry=index, account=checked.account)

    def _check_award_paid(
        self,
        index: int,
        settlement: Settlement,
        opened: OpenAward,
        before: dict[AccountId, Account],
        rules: Rules,
    ) -> None:
        """Check 13: the award is closed, its lock dissolved, the counted tokens paid, and the fee with them."""
        receipt = settlement.receipt.body if settlement.receipt else None
        paid = rules.settlement.payment(opened.award, settlement.attestation.body, receipt)
        fee = 0
        if rules.settlement_v2 is not None and opened.client != opened.provider:
            fee = rules.settlement_v2.fee(paid, self.state.parameters.fee_ppm)
        parties = (opened.client, opened.provider)
        closed = self.state.award(settlement.award) is None
        self._check_moved(index, parties, before, Moved(opened.award.locked_micro, paid, fee), closed=closed)

    def _check_tab_paid(
        self, index: int, checked: Checked, opened: OpenTab, before: dict[AccountId, Account], rules: Rules
    ) -> None:
        """Check 13 of a tab: what its client vouched for and what was claimed beside it, once."""
        assert isinstance(checked.body, TabSettlement), "a tab is settled by its settlement"
        paid = rules.tab.paid_micro(checked.body, facts_of_tab(rules, checked.body, checked.unvouched))
        fee = rules.tab.fee(paid, self.state.parameters.fee_ppm)
        parties = (opened.client, opened.provider)
        closed = self.state.tab(checked.body.tab) is None
        self._check_moved(index, parties, before, Moved(opened.locked_micro, paid, fee), closed=closed)

    def _check_moved(
        self,
        index: int,
        parties: tuple[AccountId, AccountId],
        before: dict[AccountId, Account],
        moved: "Moved",
        *,
        closed: bool,
    ) -> None:
        """That client, provider and operator hold what a lock that dissolved leaves them."""
        due, (client, provider) = dict(before), parties
        held = due[client]
        due[client] = replace(
            held,
            available_micro=held.available_micro + moved.locked - moved.paid,
            locked_micro=held.locked_micro - moved.locked,
        )
        for name, amount in ((provider, moved.paid - moved.fee), (self.state.operator, moved.fee)):
            due[name] = replace(due[name], available_micro=due[name].available_micro + amount)
        wrong = [account for account, value in due.items() if self.state.account(account) != value]
        if wrong or not 0 <= moved.paid <= moved.locked or not closed:
            self._findings.add(
                Check.SETTLEMENT,
                f"{moved.paid} micro-credits of {moved.locked} are due, once; the contract did otherwise",
                entry=index,
                account=provider,
            )

    def _look_over(self, index: int) -> None:
        """Checks 14 and 15 over the whole state."""
        self._looked_at = index
        for check, fault in (
            (Check.CONSERVED, conservation_fault(self.state.accounts(), self.state.total_micro)),
            (Check.EXPIRY, expiry_fault(self.state)),
        ):
            self._findings.examine(check)
            if fault is not None:
                self._findings.add(check, fault.message, entry=index, account=fault.account)


def _names(checked: Checked) -> frozenset[str]:
    """The accounts and entries that an entry speaks of."""
    named: list[str] = [checked.account]
    match checked.body:
        case Transfer():
            named.append(checked.body.to)
        case Withdrawal():
            named.append(checked.body.offer)
        case Award():
            named += [ask.body.offer for ask in (checked.body.winner, checked.body.runner_up) if ask]
        case Settlement():
            named += [checked.body.award, checked.body.attestation.signer]
        case TabOpening():
            named.append(checked.body.provider)
        case TabSettlement():
            named.append(checked.body.tab)
        case Rotation():
            named += [checked.body.account, checked.body.consent.signer]
        case Delegation():
            named.append(checked.body.consent.signer)
        case _:
            pass
    return frozenset(named)
