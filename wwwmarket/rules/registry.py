"""The only door to ``contracts/``: a closed catalogue of rules, each loaded from the very bytes that its hash is of.

Which of them are in force, and by which hash, the genesis of a log says. Reading the sources happens once, at the
start, in ``_sources``; nothing else here touches a file.
"""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Final, Protocol, cast

from wwwmarket.domain.book import AwardFacts, Book, Clearing, Row
from wwwmarket.domain.errors import Conflict, Malformed
from wwwmarket.domain.identity import AccountId, Digest, EntryId
from wwwmarket.domain.quantity import MicroCredits, Prices, Usage
from wwwmarket.domain.records import (
    Ask,
    Attestation,
    Award,
    Bid,
    Offer,
    Receipt,
    Settlement,
    Transfer,
    Withdrawal,
)

CATALOGUE: Final = ("account/v1", "award/v1", "offer/v1", "settlement/v1")


class AccountRule(Protocol):
    def apply(self, book: Book, author: AccountId, entry: EntryId, body: Transfer) -> tuple[Row, ...]: ...


class OfferRule(Protocol):
    def apply(self, book: Book, author: AccountId, entry: EntryId, body: Offer | Withdrawal) -> tuple[Row, ...]: ...


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

    def apply(self, book: Book, author: AccountId, entry: EntryId, body: Settlement) -> tuple[Row, ...]: ...
    def cost(self, prices: Prices, usage: Usage) -> MicroCredits: ...
    def count(self, award: Award, attestation: Attestation, receipt: Receipt | None) -> Usage: ...
    def payment(self, award: Award, attestation: Attestation, receipt: Receipt | None) -> MicroCredits: ...


class Rules:
    """The contracts in force, one version of each family. A family that is not in force is None."""

    def __init__(self, modules: Mapping[str, ModuleType]) -> None:
        self.account: Final = cast("AccountRule", modules.get("account"))
        self.offer: Final = cast("OfferRule", modules.get("offer"))
        self.award: Final = cast("AwardRule", modules.get("award"))
        self.settlement: Final = cast("SettlementRule", modules.get("settlement"))


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
        return Rules({family_of(rule): self._modules[rule] for rule in contracts})

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
