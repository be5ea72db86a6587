"""Several sequencers of one log take turns: one leads, the others follow what it orders, and one of those is next.

It promises that a sequencer leads only from the log's very end, and that the orderer forgets nothing which one of those
who announced themselves does not keep itself.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from wwwmarket.config import NodeConfig
from wwwmarket.crypto import canonical
from wwwmarket.crypto.signing import VerifiedEntry
from wwwmarket.domain.errors import Conflict, Malformed, Unavailable
from wwwmarket.domain.records import NodeAddress
from wwwmarket.ledger.note import VerifierKey
from wwwmarket.node.repair import seed
from wwwmarket.node.sequencer import Sequencer
from wwwmarket.node.submission import Answer, RemoteSubmission, answer_of, settled
from wwwmarket.ports.clock import Clock
from wwwmarket.ports.store import LedgerStore, Orderer, Sequencing
from wwwmarket.ports.transport import Transport

_log = logging.getLogger("wwwmarket.sequencer")

FOLLOW_MS: Final = 50
"""How often a follower looks for what was ordered: a network round trip each time."""
ANNOUNCE_MS: Final = 500
"""Several times in the life of an announcement."""
RETRY_MS: Final = 500
TAIL_KEPT_ENTRIES: Final = 8_192
"""Never trimmed, though all have it: a sequencer that was away for a moment finds the rest in the orderer."""


class TurnsSubmission(RemoteSubmission):
    """This process's own entries, to whoever leads: itself, or another sequencer."""

    def __init__(  # noqa: PLR0913, PLR0917 - as of any submission
        self,
        sequencer: Sequencer,
        turns: "Turns",
        transport: Transport,
        clock: Clock,
        config: NodeConfig,
        log: Callable[[], VerifierKey],
    ) -> None:
        super().__init__(turns.leaders, transport, clock, config, log, lambda _: None)
        self._sequencer = sequencer

    async def _once(self, entries: Sequence[VerifiedEntry]) -> Sequence[Answer]:
        if not self._sequencer.leads:
            return await super()._once(entries)
        admitted = [self._sequencer.submit(entry) for entry in entries]
        return settled([await answer_of(one) for one in admitted])


class Turns:
    def __init__(  # noqa: PLR0913 - what takes part
        self,
        sequencer: Sequencer,
        orderer: Orderer,
        clock: Clock,
        address: NodeAddress,
        *,
        begin: Callable[[], object],
        seed: LedgerStore | None = None,
    ) -> None:
        """``begin`` submits the genesis; it is called where this process is the first to lead an empty log.

        ``seed`` is a copy of the log that the orderer is given before this process leads.
        """
        self._sequencer, self._orderer, self._clock, self._address = sequencer, orderer, clock, address
        self._begin, self._seed = begin, seed
        self._known: Sequence[Sequencing] = ()
        self.ready: Final = asyncio.Event()
        """Set once this copy has come to the log's end and the log has begun."""

    def addresses(self) -> tuple[NodeAddress, ...]:
        """Where the log's sequencers are, the leader first, then by name."""
        by_lead = sorted(self._known, key=lambda one: not one.leads)
        return tuple(address_of(one) for one in by_lead)

    def leaders(self) -> tuple[NodeAddress, ...]:
        """Where the leader is; none while nobody leads, or it is this process."""
        return tuple(
            address for one in self._known if one.leads and (address := address_of(one)).node != self._address.node
        )

    async def run(self) -> None:
        """Leads and follows until cancelled.

        Raises:
            Unavailable: this copy is ahead of what was ordered (``superseded``).
            NotFound: it is too far behind (``trimmed``).
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._announce_forever())
            group.create_task(self._alternate())

    async def _alternate(self) -> None:
        while True:
            await self._follow_until_elected()
            if await self._caught_up(elected=True):
                _log.info("this sequencer leads from entry %d on", self._sequencer.committed)
                self._sequencer.lead()
                if self._sequencer.committed == 0:
                    self._begin()
                self.ready.set()
                await self._orderer.wait_lost()
            _log.info("this sequencer does not lead any more")
            await self._sequencer.step_down(", ".join(str(address.node) for address in self.leaders()))

    async def _follow_until_elected(self) -> None:
        elected = asyncio.ensure_future(self._elected())
        try:
            while not elected.done():
                if await self._caught_up() and self._sequencer.committed and self._seed is None:
                    self.ready.set()
                await asyncio.wait((elected,), timeout=FOLLOW_MS / 1_000)
            await elected
        finally:
            elected.cancel()

    async def _elected(self) -> None:
        while True:
            try:
                await self._orderer.campaign()
            except Unavailable as refusal:
                _log.warning("no election: %s", refusal.message)
                await self._clock.sleep_until_ms(self._clock.monotonic_ms() + RETRY_MS)
            else:
                return

    async def _caught_up(self, *, elected: bool = False) -> bool:
        """Whether this copy is at the end of what was ordered. Raises NotFound; Conflict where it was to be seeded."""
        try:
            if elected and self._seed is not None:
                await seed(self._seed, self._orderer)
            await self._sequencer.follow()
        except Unavailable as refusal:
            _log.warning("the orderer cannot be read: %s", refusal.message)
            await self._clock.sleep_until_ms(self._clock.monotonic_ms() + RETRY_MS)
            return False
        return True

    async def _announce_forever(self) -> None:
        while True:
            try:
                await self._announce()
            except (Unavailable, Malformed) as refusal:
                _log.warning("this sequencer could not announce itself: %s", refusal.message)
            except Conflict:
                _log.info("the tail is another sequencer's to trim")
            await self._clock.sleep_until_ms(self._clock.monotonic_ms() + ANNOUNCE_MS)

    async def _announce(self) -> None:
        await self._orderer.announce(canonical.encode(self._address), self._sequencer.committed)
        self._known = await self._orderer.sequencers()
        everywhere = min((one.size for one in self._known), default=0)
        if self._sequencer.leads and everywhere > TAIL_KEPT_ENTRIES:
            await self._orderer.trim(everywhere - TAIL_KEPT_ENTRIES)


def address_of(one: Sequencing) -> NodeAddress:
    """Raises Malformed."""
    return canonical.decode(one.address, NodeAddress)
