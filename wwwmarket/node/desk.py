"""What a provider's half of a node works with, and what it writes down."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from wwwmarket.config import NodeConfig
from wwwmarket.crypto.sealing import SealingPair
from wwwmarket.crypto.signing import KeyPair, VerifiedEntry
from wwwmarket.domain.book import OpenAward
from wwwmarket.domain.identity import AccountId, EntryId
from wwwmarket.domain.model import EngineFingerprint
from wwwmarket.domain.quantity import Count, MicroCredits
from wwwmarket.domain.records import Award, Settlement
from wwwmarket.domain.shape import Value
from wwwmarket.market import execution, offer, settlement
from wwwmarket.node.forecasting import Forecasting
from wwwmarket.node.speaking import AccountOf
from wwwmarket.ports.clock import Clock, Entropy
from wwwmarket.ports.engine import Engine
from wwwmarket.ports.store import RecordStore
from wwwmarket.ports.tracing import NO_TRACES, Tracer

RUNNING: Final = "execution"
CLAIM: Final = "claim"
"""Kinds of records."""


class RunningAward(Value):
    """What is kept of an award from before its first byte leaves until it is attested."""

    id: EntryId
    award: Award


@dataclass
class Desk:
    """What selling needs of its node."""

    key: KeyPair
    sealing: SealingPair
    engine: Engine
    fingerprint: EngineFingerprint
    forecasting: Forecasting
    ledger: execution.Ledger
    seller: offer.Seller
    claims: settlement.Claims
    store: RecordStore
    clock: Clock
    entropy: Entropy
    config: NodeConfig
    read_award: Callable[[VerifiedEntry], Award]
    submit: Callable[[Settlement], Awaitable[None]]
    open_award: Callable[[EntryId], OpenAward | None]
    available_micro: Callable[[AccountId], MicroCredits]
    next_seq: Callable[[AccountId], Count]
    account_of: AccountOf
    owned_by: AccountOf
    tracer: Tracer = NO_TRACES
    submitting: set[asyncio.Task[None]] = field(default_factory=set)
