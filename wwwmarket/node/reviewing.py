"""The provider's look back: what became of its asks, kept for its people, and the evidence where it was wronged.

Performs the effects of ``market.outcomes``. What it keeps binds nobody, so it is written some time later, gathered.
"""

import asyncio
import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from statistics import median_low
from typing import Final

from wwwmarket.config import NodeConfig
from wwwmarket.crypto import canonical, signing
from wwwmarket.crypto.digest import digest
from wwwmarket.domain.errors import NotFound, Refusal
from wwwmarket.domain.identity import Digest, EntryId, NodeId
from wwwmarket.domain.records import Award, Evidence, Offer
from wwwmarket.market import evidence as evidences
from wwwmarket.market import outcomes
from wwwmarket.market.outcomes import AskOutcome
from wwwmarket.node import messages
from wwwmarket.node.service import AsksView
from wwwmarket.ports.clock import Clock
from wwwmarket.ports.store import Change, LedgerStore, RecordStore
from wwwmarket.rules.registry import AwardRule
from wwwmarket.rules.state import Applied

_log = logging.getLogger("wwwmarket.reviewing")

OUTCOME: Final = "ask-outcome"
EVIDENCE: Final = "evidence"

OUTCOMES_KEPT_MAX: Final = 1_000
EVIDENCE_KEPT_MAX: Final = 256
PATIENCE_MS: Final = 10_000
"""Well beyond an auction, its award's way through the ledger, and the time that receipts are gathered."""
KEPT_MS: Final = 60_000
"""Beyond a bid's validity: later no award of it is accepted."""
TICK_MS: Final = 1_000


class Reviewing:
    def __init__(  # noqa: PLR0913, PLR0917 - what a look back needs of its node
        self,
        rule: Callable[[], AwardRule],
        records: RecordStore,
        ledger: LedgerStore,
        clock: Clock,
        config: NodeConfig,
        count: Callable[[str], None],
    ) -> None:
        self._rule = rule
        self._records = records
        self._ledger = ledger
        self._clock = clock
        self._config = config
        self._count = count
        self._machine = outcomes.Outcomes(rule(), patience_ms=PATIENCE_MS, kept_ms=KEPT_MS)
        self._latest: OrderedDict[Digest, AskOutcome] = OrderedDict()
        self._changes: list[Change] = []
        self._accusations: deque[outcomes.Accuse] = deque(maxlen=EVIDENCE_KEPT_MAX)
        self._evidence: deque[Digest] = deque()
        self._busy = asyncio.Event()

    async def restore(self) -> None:
        """What was kept before a restart. What was in mind then is lost."""
        for _, body in await self._records.scan(OUTCOME):
            outcome = canonical.decode(body, AskOutcome)
            self._latest[outcome.ask] = outcome
        self._evidence.extend(Digest(key) for key, _ in await self._records.scan(EVIDENCE))

    def asked(self, peer: NodeId, request: messages.AskRequest, answer: messages.Answer, terms: Offer | None) -> None:
        """This node answered a bid. An ask is kept in mind where the bid's own auctioneer asked for it."""
        bid = request.bid.body
        if not isinstance(answer, messages.AskAnswer) or terms is None or peer != bid.auctioneer:
            return
        self._count("asks_total")
        self._step(outcomes.AskMade(at_ms=self._clock.now_ms(), bid=bid, ask=answer.ask, terms=terms))
        self._busy.set()

    def heard(self, peer: NodeId, message: messages.Acknowledge) -> messages.Acknowledged:
        """Receipts by the one who hands them over, for bids that are in mind; others are not even verified.

        Raises:
            Unauthorised: a receipt is not signed by its auctioneer.
        """
        for receipt in message.receipts:
            bid = self._machine.awaits(receipt.body.bid)
            if bid is not None and peer == bid.auctioneer:
                self._step(outcomes.ReceiptArrived(received=signing.verify(receipt)))
        return messages.Acknowledged()

    def seen(self, applied: Sequence[Applied]) -> None:
        """What the ledger says now."""
        for one in applied:
            award, facts = one.checked.body, one.checked.facts
            if isinstance(award, Award) and facts is not None and self._machine.awaits(facts.bid_digest) is not None:
                self._step(outcomes.AwardSeen(index=one.index, name=one.checked.id, bid=facts.bid_digest, award=award))

    def taken(self, name: EntryId, award: Award) -> None:
        """An award to this provider under a tab, which no ledger shows."""
        bid = digest(award.bid)
        if self._machine.awaits(bid) is not None:
            self._step(outcomes.AwardSeen(index=0, name=name, bid=bid, award=award))

    async def run(self) -> None:
        while True:
            await self._busy.wait()
            await self._clock.sleep_until_ms(self._clock.monotonic_ms() + TICK_MS)
            self._step(outcomes.TimeMoved(at_ms=self._clock.now_ms()))
            await self._keep()
            if self._machine.idle and not self._changes and not self._accusations:
                self._busy.clear()

    def view(self, limit: int) -> AsksView:
        """Of the asks kept: how many have which verdict, by how much the lost ones lost, and the latest ones."""
        kept = list(self._latest.values())
        gaps = [
            outcome.score - outcome.winner_score
            for outcome in kept
            if outcome.verdict == "lost" and outcome.winner_score is not None and outcome.score >= outcome.winner_score
        ]
        return AsksView(
            asks=len(kept),
            verdicts=dict(sorted(Counter(outcome.verdict for outcome in kept).items())),
            median_gap_micro=median_low(gaps) if gaps else None,
            latest=tuple(reversed(kept[-limit:])),
            evidence=tuple(reversed(self._evidence)),
        )

    async def evidence(self, ask: Digest) -> Evidence:
        """Raises NotFound."""
        body = await self._records.read(EVIDENCE, ask)
        if body is None:
            raise NotFound("there is no evidence about that ask", param="ask")
        return canonical.decode(body, Evidence, bytes_max=evidences.EVIDENCE_BYTES_MAX)

    def _step(self, event: outcomes.Event) -> None:
        for effect in self._machine.step(event):
            match effect:
                case outcomes.Concluded():
                    self._concluded(effect.outcome)
                case outcomes.Accuse():
                    self._accusations.append(effect)

    def _concluded(self, outcome: AskOutcome) -> None:
        self._count(f"asks_{outcome.verdict}_total")
        self._latest[outcome.ask] = outcome
        self._changes.append(Change(kind=OUTCOME, key=outcome.ask, body=canonical.encode(outcome)))
        if len(self._latest) > OUTCOMES_KEPT_MAX:
            oldest, _ = self._latest.popitem(last=False)
            self._changes.append(Change(kind=OUTCOME, key=oldest, body=None))

    async def _keep(self) -> None:
        """What could not be written is tried again, unless it is much by then."""
        changes = self._changes + [change for fault in self._take_accusations() for change in await self._prove(fault)]
        self._changes = []
        if not changes:
            return
        try:
            await self._records.write(changes, patience_ms=self._config.record_patience_ms)
        except Refusal as refusal:
            _log.warning("outcomes of asks were not kept: %s", refusal.message)
            self._changes = (changes + self._changes)[-OUTCOMES_KEPT_MAX:]

    def _take_accusations(self) -> Iterable[outcomes.Accuse]:
        taken = list(self._accusations)
        self._accusations.clear()
        return taken

    async def _prove(self, fault: outcomes.Accuse) -> list[Change]:
        """The evidence with its entries, judged as anybody will judge it."""
        offer = await self._ledger.index_of(fault.ask.body.offer)
        award_leaf = await self._ledger.read(fault.award_index, fault.award_index + 1)
        offer_leaf = [] if offer is None else await self._ledger.read(offer, offer + 1)
        if not award_leaf or not offer_leaf:
            self._accusations.append(fault)  # the replica is ahead of its store by a moment
            return []
        evidence = Evidence(
            ask=fault.ask, received=fault.received, award=award_leaf[0].decode(), offer=offer_leaf[0].decode()
        )
        try:
            proven = evidences.judge(evidence, self._rule())
        except Refusal as refusal:
            _log.warning("evidence about ask of bid %s proves nothing: %s", fault.ask.body.bid, refusal.message)
            return []
        _log.warning("%s by %s, award %s: %s", proven.fault, proven.auctioneer, proven.award, proven.message)
        return self._kept(proven.ask, evidence)

    def _kept(self, ask: Digest, evidence: Evidence) -> list[Change]:
        if ask in self._evidence:
            return []
        self._evidence.append(ask)
        changes = [Change(kind=EVIDENCE, key=ask, body=canonical.encode(evidence))]
        if len(self._evidence) > EVIDENCE_KEPT_MAX:
            changes.append(Change(kind=EVIDENCE, key=self._evidence.popleft(), body=None))
        return changes
