"""What an audit says: findings by check and entry, and the report at its end."""

from enum import IntEnum
from typing import Final, Literal, TypeAlias

from wwwmarket.domain.identity import AccountId, Digest
from wwwmarket.domain.quantity import Count, MicroCredits, Millis
from wwwmarket.domain.shape import Value

Severity: TypeAlias = Literal["violation", "consequence"]
"""A consequence would not be there without an earlier violation."""

VIOLATIONS_KEPT_MAX: Final = 100
CONSEQUENCES_KEPT_MAX: Final = 20
"""A log that is rotten from some entry on has a finding for each; the first ones say what happened."""
MESSAGE_CHARACTERS_MAX: Final = 400
"""Refusals quote what strangers wrote."""


class Check(IntEnum):
    """The numbers of ``wwwmarket.market.audit``."""

    NOTE = 1
    SIZE = 2
    ROOT = 3
    TILES = 4
    INCLUSION = 5
    ENTRY = 6
    CHAIN = 7
    NESTED = 8
    CONTRACTS = 9
    ACCEPTED = 10
    MARKS = 11
    AUCTION = 12
    SETTLEMENT = 13
    CONSERVED = 14
    EXPIRY = 15
    BALANCES = 16
    COPIES = 17


TITLES: Final = {
    Check.NOTE: "The checkpoint is signed by the log's key",
    Check.SIZE: "There are as many entries as it covers",
    Check.ROOT: "The tree over them has its root",
    Check.TILES: "The tiles are those of the entries",
    Check.INCLUSION: "Entries are proven from the tiles alone",
    Check.ENTRY: "Entries are canonical and signed by their authors",
    Check.CHAIN: "Each is the next of its account's chain",
    Check.NESTED: "Asks, attestations and receipts are signed",
    Check.CONTRACTS: "The contracts in force are those of this program",
    Check.ACCEPTED: "The contracts accept each entry",
    Check.MARKS: "Marks have the replayed state's root; time never goes back",
    Check.AUCTION: "Winners, prices and locks are the auction's",
    Check.SETTLEMENT: "Awards are settled once, for what was counted",
    Check.CONSERVED: "Credits are conserved, and nobody overspends",
    Check.EXPIRY: "Nothing stays locked past its expiry",
    Check.BALANCES: "Balances claimed are those of the replay",
    Check.COPIES: "Other sources show the same log",
}


class Finding(Value):
    """``entry`` is the index in the log, where one entry is to blame."""

    check: Check
    entry: Count | None
    account: AccountId | None
    message: str
    severity: Severity


class CheckResult(Value):
    """``examined`` counts what the check was applied to; a check that nothing called for is unchecked."""

    check: Check
    title: str
    examined: Count
    findings: Count
    verdict: Literal["pass", "fail", "unchecked"]


class Report(Value):
    """``violations`` and ``consequences`` count all of them; ``findings`` are the first of each, in order."""

    verdict: Literal["pass", "findings"]
    origin: str | None
    checkpoint_size: Count
    checkpoint_root: Digest | None
    entries: Count
    accounts: Count
    offers: Count
    awards: Count
    settlements: Count
    transfers: Count
    total_micro: MicroCredits
    ledger_time_ms: Millis
    contracts: dict[str, Digest]
    checks: tuple[CheckResult, ...]
    violations: Count
    consequences: Count
    findings: tuple[Finding, ...]


class Findings:
    """Keeps the first findings, counts all of them, and what each check has examined."""

    def __init__(self) -> None:
        self._kept: dict[Severity, list[Finding]] = {"violation": [], "consequence": []}
        self._order: list[Finding] = []
        self._found = dict.fromkeys(Check, 0)
        self._examined = dict.fromkeys(Check, 0)
        self.violations = 0
        self.consequences = 0

    def examine(self, check: Check, times: int = 1) -> None:
        self._examined[check] += times

    def add(
        self,
        check: Check,
        message: str,
        *,
        entry: int | None = None,
        account: AccountId | None = None,
        follows: bool = False,
    ) -> None:
        """``follows``: it follows from an earlier violation."""
        assert self.violations or not follows, "a consequence has a cause"
        severity: Severity = "consequence" if follows else "violation"
        self.violations += not follows
        self.consequences += follows
        self._found[check] += 1
        kept_max = CONSEQUENCES_KEPT_MAX if follows else VIOLATIONS_KEPT_MAX
        kept = self._kept[severity]
        if len(kept) < kept_max:
            finding = Finding(
                check=check,
                entry=entry,
                account=account,
                message=message[:MESSAGE_CHARACTERS_MAX],
                severity=severity,
            )
            kept.append(finding)
            self._order.append(finding)

    @property
    def examined(self) -> dict[Check, int]:
        """What each check has been applied to."""
        return dict(self._examined)

    def take_up(self, examined: dict[Check, int]) -> None:
        """Go on counting where another audit was put aside."""
        self._examined.update(examined)

    def has(self, *checks: Check) -> bool:
        """Whether any of ``checks`` has a finding."""
        return any(self._found[check] for check in checks)

    def since(self, start: int) -> tuple[Finding, ...]:
        """Those kept, from the ``start``-th on, in order."""
        return tuple(self._order[start:])

    @property
    def kept(self) -> int:
        return len(self._order)

    def results(self) -> tuple[CheckResult, ...]:
        return tuple(self._result(check) for check in Check)

    def _result(self, check: Check) -> CheckResult:
        found, examined = self._found[check], self._examined[check]
        return CheckResult(
            check=check,
            title=TITLES[check],
            examined=examined,
            findings=found,
            verdict="fail" if found else "pass" if examined else "unchecked",
        )
