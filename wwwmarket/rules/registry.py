"""The only door to ``contracts/``: a closed catalogue of rules, each loaded from the very bytes that its hash is of.

Which of them are in force, and by which hash, the genesis of a log says. Reading the sources happens once, at the
start, in ``_sources``; nothing else here touches a file.
"""

from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Final, Protocol, cast

from wwwmarket.domain.book import AwardFacts, Book, Clearing, ListedOffer, Row, UnvouchedFacts
from wwwmarket.domain.errors import Conflict, Malformed
from wwwmarket.domain.identity import AccountId, Digest, EntryId
from wwwmarket.domain.keys import Delegation, Guard, Revocation, Rotation
from wwwmarket.domain.quantity import Count, MicroCredits, Millis, Prices, Usage
from wwwmarket.domain.records import (
    Ask,
    Attestation,
    Award,
    Bid,
    Dispute,
    Offer,
    Receipt,
    Settlement,
    TabOpening,
    TabSettlement,
    Transfer,
    Withdrawal,
)
from wwwmarket.domain.standing import Reputation, Standing

CATALOGUE: Final = (
    "account/v1",
    "account/v2",
    "award/v1",
    "award/v2",
    "keys/v1",
    "offer/v1",
    "offer/v2",
    "reputation/v1",
    "settlement/v1",
    "settlement/v2",
    "tab/v1",
    "tab/v2",
)


class AccountRule(Protocol):
    def apply(self, book: Book, author: AccountId, entry: EntryId, body: Transfer) -> tuple[Row, ...]: ...


class KeysRule(Protocol):
    def apply(
        self, book: Book, author: AccountId, entry: EntryId, body: Rotation | Delegation | Revocation | Guard
    ) -> tuple[Row, ...]: ...


class TabRule(Protocol):
    """As ``contracts/tab/v2.py``, where each function is described."""

    def apply(
        self,
        book: Book,
        author: AccountId,
        entry: EntryId,
        body: TabOpening | TabSettlement,
        facts: tuple[UnvouchedFacts, ...],
    ) -> tuple[Row, ...]: ...
    def paid_micro(self, body: TabSettlement, facts: tuple[UnvouchedFacts, ...]) -> MicroCredits: ...
    def fee(self, paid_micro: MicroCredits, fee_ppm: int) -> MicroCredits: ...


class ReputationRule(Protocol):
    """As ``contracts/reputation/v1.py``, where each function is described."""

    def settled(  # noqa: PLR0913, PLR0917 - what is known of one settlement
        self,
        standing: Standing,
        now_ms: Millis,
        attestation: Attestation,
        receipt: Receipt | None,
        cost_micro: MicroCredits,
        paid_micro: MicroCredits,
        bonded_micro: MicroCredits,
    ) -> Standing: ...
    def together(  # noqa: PLR0913, PLR0917 - what is known of one tab
        self,
        standing: Standing,
        now_ms: Millis,
        answers: Count,
        cost_micro: MicroCredits,
        paid_micro: MicroCredits,
        bonded_micro: MicroCredits,
    ) -> Standing: ...
    def silent(
        self, standing: Standing, now_ms: Millis, locked_micro: MicroCredits, penalty_micro: MicroCredits
    ) -> Standing: ...
    def faded(self, standing: Standing, now_ms: Millis) -> Standing: ...
    def reputation(self, standing: Standing, now_ms: Millis) -> Reputation: ...


class OfferRule(Protocol):
    def apply(self, book: Book, author: AccountId, entry: EntryId, body: Offer | Withdrawal) -> tuple[Row, ...]: ...


class OfferRuleV2(OfferRule, Protocol):
    """Bonds outlive their offers."""

    def unbond(self, book: Book, offer: EntryId, listed: ListedOffer) -> tuple[Row, ...]: ...


class AwardRule(Protocol):
    """As ``contracts/award/v1.py``, where each function is described."""

    def apply(
        self, book: Book, author: AccountId, entry: EntryId, body: Award, facts: AwardFacts
    ) -> tuple[Row, ...]: ...
    def cost(self, prices: Prices, usage: Usage) -> MicroCredits: ...
    def lock(self, bid: Bid, prices: Prices) -> MicroCredits: ...
    def score(self, bid: Bid, ask: Ask) -> int: ...
    def meets_slo(self, bid: Bid, ask: Ask) -> bool: ...
    def check_ask(self, bid: Bid, ask: Ask, offer: Offer) -> None: ...
    def clear(self, bid: Bid, ask: Ask, offer: Offer, runner_up: Ask | None) -> Clearing: ...


class SettlementRule(Protocol):
    """As ``contracts/settlement/v1.py``, where each function is described."""

    def apply(self, book: Book, author: AccountId, entry: EntryId, body: Settlement | Dispute) -> tuple[Row, ...]: ...
    def cost(self, prices: Prices, usage: Usage) -> MicroCredits: ...
    def count(self, award: Award, attestation: Attestation, receipt: Receipt | None) -> Usage: ...
    def payment(self, award: Award, attestation: Attestation, receipt: Receipt | None) -> MicroCredits: ...


class SettlementRuleV2(SettlementRule, Protocol):
    """Late answers, disputes, and the market's fee."""

    def refund(self, award: Award, receipt: Receipt, output_tokens: int, cost_micro: MicroCredits) -> MicroCredits: ...
    def fee(self, paid_micro: MicroCredits, fee_ppm: int) -> MicroCredits: ...
    def penalty(self, bond_micro: MicroCredits, left_micro: MicroCredits) -> MicroCredits: ...


class Rules:
    """The contracts in force, one version of each family. A family that is not in force is None, and version 0.

    What came with a version is under that version's name, and None where an older one is in force.
    """

    def __init__(self, contracts: Iterable[str], modules: Mapping[str, ModuleType]) -> None:
        self.versions: Final = {family_of(rule): _version_of(rule) for rule in contracts}
        self.account: Final = cast("AccountRule", modules.get("account"))
        self.keys: Final = cast("KeysRule", modules.get("keys"))
        self.offer: Final = cast("OfferRule", modules.get("offer"))
        self.reputation: Final = cast("ReputationRule | None", modules.get("reputation"))
        self.tab: Final = cast("TabRule", modules.get("tab"))
        self.award: Final = cast("AwardRule", modules.get("award"))
        self.settlement: Final = cast("SettlementRule", modules.get("settlement"))
        self.offer_v2: Final = cast("OfferRuleV2 | None", modules.get("offer") if self.speaks("offer", 2) else None)
        self.settlement_v2: Final = cast(
            "SettlementRuleV2 | None", modules.get("settlement") if self.speaks("settlement", 2) else None
        )

    def speaks(self, family: str, version: int) -> bool:
        """Whether ``version`` of a contract, or a later one, is in force."""
        return self.versions.get(family, 0) >= version


class Registry:
    """The catalogue, loaded. ``hashes`` are plain SHA-256 of the sources, as ``sha256sum`` prints them."""

    def __init__(self, sources: Mapping[str, bytes]) -> None:
        assert set(sources) == set(CATALOGUE), "the catalogue is closed"
        modules = {rule: _module(rule, source) for rule, source in sources.items()}
        self.hashes: Final[dict[str, Digest]] = {
            rule: Digest(sha256(sources[rule]).hexdigest()) for rule in sorted(sources)
        }
        self._modules: Final = modules

    def rules(self, contracts: Mapping[str, Digest]) -> Rules:
        """The contracts that a log has in force.

        Raises:
            Malformed: two versions of one family (``contract_twice``).
            Conflict: a rule is unknown here, or its source is another one (``contract_missing``, ``contract_differs``).
        """
        self.require(contracts)
        families = [family_of(rule) for rule in contracts]
        if len(set(families)) < len(families):
            raise Malformed("one version of each contract is in force", param="contracts", reason="contract_twice")
        return Rules(contracts, {family_of(rule): self._modules[rule] for rule in contracts})

    @property
    def latest(self) -> dict[str, Digest]:
        """The newest version of each contract, by source hash: what a new log begins with."""
        newest: dict[str, str] = {}
        for rule in sorted(self.hashes, key=_version_of):
            newest[family_of(rule)] = rule
        return {rule: self.hashes[rule] for rule in sorted(newest.values())}

    @property
    def current(self) -> Rules:
        """The newest contracts."""
        return self.rules(self.latest)

    @classmethod
    def load(cls) -> "Registry":
        """Raises FileNotFoundError when the installation lacks a contract."""
        return cls(_sources())

    def require(self, contracts: Mapping[str, Digest]) -> None:
        """Whether this program has exactly the sources that a genesis puts in force.

        Raises:
            Conflict: a rule is unknown here, or its source is another one (``contract_missing``, ``contract_differs``).
        """
        for rule in sorted(contracts):
            ours = self.hashes.get(rule)
            if ours is None:
                raise Conflict(
                    f"contract {rule} with source {contracts[rule]} is in force, and this version lacks it",
                    param="contracts",
                    reason="contract_missing",
                )
            if ours != contracts[rule]:
                raise Conflict(
                    f"contract {rule} is in force with source {contracts[rule]}, and this version has {ours}",
                    param="contracts",
                    reason="contract_differs",
                )


def family_of(rule: str) -> str:
    """``award`` of ``award/v2``."""
    return rule.partition("/")[0]


def _version_of(rule: str) -> int:
    return int(rule.partition("/v")[2])


def _folder() -> Path:
    """Inside an installed package the contracts are ``wwwmarket/_contracts``; in a checkout they stand beside it."""
    package = Path(__file__).parents[1]
    installed = package / "_contracts"
    return installed if installed.is_dir() else package.parent / "contracts"


def _sources() -> dict[str, bytes]:
    folder = _folder()
    return {rule: (folder / f"{rule}.py").read_bytes() for rule in CATALOGUE}


def _module(rule: str, source: bytes) -> ModuleType:
    """A module of exactly these bytes. It is in no import system, so nothing else can stand in for it."""
    module = ModuleType("wwwmarket.rules.registry." + rule.replace("/", "_"))
    exec(compile(source, str(_folder() / f"{rule}.py"), "exec"), module.__dict__)  # noqa: S102 - our own, hashed source
    return module
