"""What became of an account's credits, line by line: replayed from the ledger's own entries, and equal to its balance.

A line is one entry that changed the account. It says by how much each part of the account changed, so the lines add up
to the balance whatever contracts are in force: it is read from the rows that an entry wrote, not from what it promised.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Final, Literal, TypeAlias

from msgspec import Meta

from wwwmarket.crypto.digest import kind_of
from wwwmarket.domain.book import Account, AccountRow, AwardRow, OpenAward, OpenTab, TabRow
from wwwmarket.domain.identity import AccountId, EntryId
from wwwmarket.domain.model import ModelName
from wwwmarket.domain.quantity import INTEGER_MAX, NO_USAGE, Count, Millis, Usage
from wwwmarket.domain.records import Award, Body, Decree, Genesis, Settlement, TabOpening, TabSettlement, Transfer
from wwwmarket.domain.shape import Value
from wwwmarket.rules.check import Checked
from wwwmarket.rules.state import Applied, State

Change: TypeAlias = Annotated[int, Meta(ge=-INTEGER_MAX, le=INTEGER_MAX)]
Grouping: TypeAlias = Literal["day", "counterparty", "model", "kind"]


class Line(Value):
    """One entry's effect on the account. ``at_ms`` is the ledger's time; ``kind`` the entry's, without its version.

    ``counterparty``, ``model``, ``award``, ``tab`` and ``usage`` are given where the entry has them; ``answers`` is how
    many a tab's settlement pays for, each by a receipt that both sides keep. A change of the whole is
    what was earned, or with a minus spent; the parts move between free, locked and bonded.
    """

    index: Count
    at_ms: Millis
    kind: str
    counterparty: AccountId | None
    model: ModelName | None
    award: EntryId | None
    usage: Usage | None
    available_micro: Change
    locked_micro: Change
    bonded_micro: Change
    tab: EntryId | None = None
    answers: Count | None = None

    @property
    def net_micro(self) -> int:
        return self.available_micro + self.locked_micro + self.bonded_micro


class Total(Value):
    """The lines of one day, counterparty, model or kind: what came in, what went out, and for how many tokens."""

    group: str
    lines: Count
    earned_micro: Count
    spent_micro: Count
    net_micro: Change
    input_tokens: Count
    output_tokens: Count


class Reader:
    """Follows a log for one account. ``state`` is the replay, which is the caller's proof of the balance."""

    def __init__(self, account: AccountId, state: State) -> None:
        self.account: Final = account
        self.state: Final = state

    def follow(self, checked: Checked) -> Line | None:
        """Apply the next entry; the line that it means for the account. Raises a Refusal as ``State.apply``."""
        opened = _opened(self.state, checked)
        tab = self.state.tab(checked.body.tab) if isinstance(checked.body, TabSettlement) else None
        before = self.state.account(self.account)
        applied = self.state.apply(checked)
        if not any(isinstance(row, AccountRow) and row.id == self.account for row in applied.rows):
            return None
        after = self.state.account(self.account)
        return None if after == before else self._line(applied, opened, tab, before, after)

    def _line(
        self, applied: Applied, opened: OpenAward | None, tab: OpenTab | None, before: Account, after: Account
    ) -> Line:
        checked = applied.checked
        award, counterparty, model, usage = None, _counterparty(self.account, applied), None, None
        if tab is not None:
            counterparty = tab.provider if self.account == tab.client else tab.client
        if opened is not None:
            award = _award_of(checked)
            counterparty = opened.provider if self.account == opened.client else opened.client
            model = opened.award.bid.model.name
        if isinstance(checked.body, Settlement):
            usage = checked.body.attestation.body.usage
        elif isinstance(checked.body, Award):
            award, model = checked.id, checked.body.bid.model.name
            counterparty = next(row.value.provider for row in applied.rows if isinstance(row, AwardRow) and row.value)
        else:
            award = award or next((row.id for row in applied.rows if isinstance(row, AwardRow)), None)
        return Line(
            index=applied.index,
            at_ms=self.state.now_ms,
            kind=kind_of(checked.body).partition("/")[0],
            counterparty=counterparty,
            model=model,
            award=award,
            usage=usage,
            available_micro=after.available_micro - before.available_micro,
            locked_micro=after.locked_micro - before.locked_micro,
            bonded_micro=after.bonded_micro - before.bonded_micro,
            tab=next((row.id for row in applied.rows if isinstance(row, TabRow)), None),
            answers=_answers(checked.body),
        )


def balance_of(lines: Iterable[Line]) -> Account:
    """What the lines from the log's beginning add up to."""
    available_micro = locked_micro = bonded_micro = 0
    for line in lines:
        available_micro += line.available_micro
        locked_micro += line.locked_micro
        bonded_micro += line.bonded_micro
    return Account(available_micro=available_micro, locked_micro=locked_micro, bonded_micro=bonded_micro)


def totals(lines: Iterable[Line], by: Grouping, day_of: Callable[[Millis], str]) -> list[Total]:
    """The lines by day, counterparty, model or kind, in ascending order; those without one come as "-".

    ``day_of`` names the day of an instant.
    """
    groups: defaultdict[str, list[Line]] = defaultdict(list)
    for line in lines:
        groups[_group(line, by, day_of)].append(line)
    return [_total(group, groups[group]) for group in sorted(groups)]


def within(lines: Iterable[Line], from_ms: Millis | None, until_ms: Millis | None) -> Iterator[Line]:
    """The lines of ``from_ms`` <= time < ``until_ms``."""
    for line in lines:
        if (from_ms is None or line.at_ms >= from_ms) and (until_ms is None or line.at_ms < until_ms):
            yield line


def _opened(state: State, checked: Checked) -> OpenAward | None:
    award = _award_of(checked)
    return None if award is None else state.award(award)


def _award_of(checked: Checked) -> EntryId | None:
    """The award that an entry is about: a settlement, a dispute and their like name it."""
    award: EntryId | None = getattr(checked.body, "award", None)
    return award if isinstance(award, str) else None


def _answers(body: Body) -> Count | None:
    if not isinstance(body, TabSettlement):
        return None
    return len(body.unvouched) + (0 if body.voucher is None else body.voucher.body.count)


def _counterparty(account: AccountId, applied: Applied) -> AccountId | None:
    match applied.checked.body:
        case TabOpening() as opening:
            return opening.provider
        case Transfer() as transfer:
            return applied.author if account == transfer.to else transfer.to
        case Genesis() | Decree():
            return None
        case _:
            return None if applied.author == account else applied.author


def _group(line: Line, by: Grouping, day_of: Callable[[Millis], str]) -> str:
    match by:
        case "day":
            return day_of(line.at_ms)
        case "counterparty":
            return line.counterparty or "-"
        case "model":
            return line.model or "-"
        case "kind":
            return line.kind


def _total(group: str, lines: list[Line]) -> Total:
    earned = sum(max(line.net_micro, 0) for line in lines)
    spent = sum(max(-line.net_micro, 0) for line in lines)
    used = [line.usage or NO_USAGE for line in lines if line.net_micro]
    return Total(
        group=group,
        lines=len(lines),
        earned_micro=earned,
        spent_micro=spent,
        net_micro=earned - spent,
        input_tokens=sum(usage.input_tokens for usage in used),
        output_tokens=sum(usage.output_tokens for usage in used),
    )
