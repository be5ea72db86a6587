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
from wwwmarket.domain.errors import Conflict
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


class AccountV1(Protocol):
    def apply(self, book: Book, author: AccountId, entry: EntryId, body: Transfer) -> tuple[Row, ...]: ...


class OfferV1(Protocol):
    def apply(self, book: Book, author: AccountId, entry: EntryId, body: Offer | Withdrawal) -> tuple[Row, ...]: ...


class AwardV1(Protocol):
    """``contracts/award/v1.py``, where each function is described."""

    def apply(
        self, book: Book, author: AccountId, entry: EntryId, body: Award, facts: AwardFacts
    ) -> tuple[Row, ...]: ...
    def cost(self, prices: Prices, usage: Usage) -> MicroCredits: ...
    def lock(self, bid: Bid, prices: Prices) -> MicroCredits: ...
    def score(self, bid: Bid, ask: Ask) -> int: ...
    def meets_slo(self, bid: Bid, ask: Ask) -> bool: ...
    def check_ask(self, bid: Bid, ask: Ask, offer: Offer) -> None: ...
    def clear(self, bid: Bid, ask: Ask, offer: Offer, runner_up: Ask | None) -> Clearing: ...


class SettlementV1(Protocol):
    """``contracts/settlement/v1.py``, where each function is described."""

    def apply(self, book: Book, author: AccountId, entry: EntryId, body: Settlement) -> tuple[Row, ...]: ...
    def cost(self, prices: Prices, usage: Usage) -> MicroCredits: ...
    def count(self, award: Award, attestation: Attestation, receipt: Receipt | None) -> Usage: ...
    def payment(self, award: Award, attestation: Attestation, receipt: Receipt | None) -> MicroCredits: ...


class Registry:
    """The catalogue, loaded. ``hashes`` are plain SHA-256 of the sources, as ``sha256sum`` prints them."""

    def __init__(self, sources: Mapping[str, bytes]) -> None:
        assert set(sources) == set(CATALOGUE), "the catalogue is closed"
        modules = {rule: _module(rule, source) for rule, source in sources.items()}
        self.hashes: Final[dict[str, Digest]] = {
            rule: Digest(sha256(sources[rule]).hexdigest()) for rule in sorted(sources)
        }
        self.account_v1: Final = cast("AccountV1", modules["account/v1"])
        self.offer_v1: Final = cast("OfferV1", modules["offer/v1"])
        self.award_v1: Final = cast("AwardV1", modules["award/v1"])
        self.settlement_v1: Final = cast("SettlementV1", modules["settlement/v1"])

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
