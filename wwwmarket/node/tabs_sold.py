"""The provider's tabs: awards taken under them, what is attested of each, vouchers heard, and their settlement.

Performs what ``market.tab`` decides. Durable before anybody hears of it: an award before its first byte leaves, an
attestation before it is sent, a voucher before it is acknowledged, and that a tab ends before it is settled.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Final

from wwwmarket.crypto import canonical, signing
from wwwmarket.crypto.sealing import Channel
from wwwmarket.domain.book import OpenTab, TabRow
from wwwmarket.domain.errors import Conflict, Exhausted, Forbidden, Malformed, NotFound, Refusal, Stale
from wwwmarket.domain.identity import EntryId
from wwwmarket.domain.quantity import Count, Millis
from wwwmarket.domain.records import Attestation, Award, Signed, TabAward, TabSettlement, Unvouched
from wwwmarket.market import execution
from wwwmarket.market.advance import Advances
from wwwmarket.market.tab import Kept, Payee, PaymentRule, Tally, name_of
from wwwmarket.node import messages
from wwwmarket.node.desk import Desk
from wwwmarket.node.selling import Selling
from wwwmarket.node.serving import ATTESTED, Serving
from wwwmarket.node.tab_records import SOLD, SOLD_WORK, SoldTab, SoldWork, number_of, place_of, sold_receipts
from wwwmarket.ports.store import Change
from wwwmarket.ports.transport import Stream

_log = logging.getLogger("wwwmarket.tabs")

TABS_MAX: Final = 1_024
"""Open here at a time: each is a client's locked credits, and some kilobytes."""


class _Sold:
    def __init__(self, opened: OpenTab, payee: Payee, *, ending: bool = False) -> None:
        self.opened = opened
        self.payee = payee
        self.ending = ending
        self.running: set[Count] = set()
        self.due_ms = 0
        self.settling: asyncio.Task[None] | None = None


class TabsSold:
    """``tab`` is the ledger's word on an open tab, ``submit`` writes a settlement in the provider's name, ``taken``
    hears of each award won; what ``spawn`` runs ends with the node.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what it asks of its node
        self,
        selling: Selling,
        tab: Callable[[EntryId], OpenTab | None],
        rule: Callable[[], PaymentRule],
        ledger_now_ms: Callable[[], Millis],
        submit: Callable[[TabSettlement], Awaitable[object]],
        spawn: Callable[[Coroutine[None, None, None]], "asyncio.Task[None]"],
        taken: Callable[[EntryId, Award], None],
    ) -> None:
        self._selling = selling
        self._desk = selling.desk
        self._tab = tab
        self._rule = rule
        self._ledger_now_ms = ledger_now_ms
        self._submit = submit
        self._spawn = spawn
        self._taken = taken
        self._tabs: dict[EntryId, _Sold] = {}
        self._names: dict[EntryId, tuple[EntryId, Count]] = {}
        self._seen = asyncio.Condition()

    @property
    def desk(self) -> Desk:
        return self._desk

    @property
    def advances(self) -> Advances:
        return self._selling.advances

    @property
    def open(self) -> tuple[EntryId, ...]:
        return tuple(self._tabs)

    async def restore(self) -> None:
        """After a restart: each tab as it was kept; executions that the crash cut off are attested as failed."""
        desk = self._desk
        work = [canonical.decode(body, SoldWork) for _, body in await desk.store.scan(SOLD_WORK)]
        for key, body in await desk.store.scan(SOLD):
            name = EntryId(key)
            opened = self._tab(name)
            mine = [one for one in work if one.award.body.tab == name]
            if opened is None:
                await self._forget(name, [one.award.body.number for one in mine])
                continue
            kept = [canonical.decode(body, Kept) for _, body in await desk.store.scan(sold_receipts(name))]
            at_work = [
                one.award if one.attestation is None else Unvouched(award=one.award, attestation=one.attestation)
                for one in mine
            ]
            payee = Payee.restore(self._tally(name, opened), desk.account_of, kept, at_work)
            self._tabs[name] = _Sold(opened, payee, ending=canonical.decode(body, SoldTab).ending)
            for one in mine:
                self._names[name_of(one.award.body)] = (name, one.award.body.number)
            await self._attest_lost(name)

    def offered(self, offered: messages.TabOffered) -> messages.Acknowledged:
        """Whether to work under a tab that a client would open.

        Raises:
            Forbidden: this provider works under no tabs, or this is not the one that owns the account.
            Exhausted: it has as many as it can.
        """
        desk = self._desk
        own = desk.key.account
        if not desk.config.tabs.accepted or desk.owned_by(own) != offered.terms.provider:
            raise Forbidden("this provider works under no tabs; its answers are settled one by one", reason="no_tabs")
        if len(self._tabs) >= TABS_MAX:
            raise Exhausted("this provider has as many tabs as it can", retry_after_ms=desk.config.tabs.declined_ms)
        return messages.Acknowledged()

    async def execute(self, stream: Stream, opening: messages.ExecuteUnderTab) -> None:
        """Serve one award under a tab over ``stream``. Raises as ``market.tab.Payee.take`` and ``check_award``."""
        desk, award = self._desk, opening.award.body.award
        sold = await self._known(opening.award.body.tab)
        channel = desk.sealing.channel(opening.gateway_key, "provider")
        name, number = self._take(sold, opening.award), opening.award.body.number
        sold.running.add(number)
        try:
            await self._keep_work(opening.award, None)
            self._taken(name, award)
            serving = Serving(self, stream, channel, opening, name, award)
            try:
                self._selling.take(award)
            except (Exhausted, Stale) as refusal:
                await self._turn_away(stream, channel, opening.award, refusal)
            else:
                await serving.run()
        finally:
            sold.running.discard(number)

    async def keep(self, award_id: EntryId, award: Award) -> None:
        """It was kept when it was taken."""

    async def claim(self, award_id: EntryId, award: Award, attest: execution.Attest) -> None:  # noqa: ARG002
        tab, number = self._names[award_id]
        await self._attest(tab, number, attest.attestation)

    async def receipt(self, given: messages.ReceiptGiven, award_id: EntryId, award: Award) -> None:  # noqa: ARG002
        """Raises Malformed."""
        raise Malformed("under a tab a receipt comes with its voucher")

    async def vouched(self, message: messages.Vouch) -> messages.Vouched:
        """The client's word on the next answer. One that is not the next is told which one is.

        Raises:
            NotFound: no such tab is open here.
            Unauthorised, Conflict, Malformed: as ``market.tab.Payee.hear``.
        """
        kept = message.kept
        name = kept.voucher.body.tab
        sold = self._open_here(name)
        index, number = sold.payee.count, kept.receipt.award.body.number
        if kept.voucher.body.count == index + 1:
            sold.payee.hear(kept.receipt, kept.voucher)
            self._names.pop(name_of(kept.receipt.award.body), None)
            await self._desk.store.write(
                [
                    Change(kind=sold_receipts(name), key=number_of(index), body=canonical.encode(kept)),
                    Change(kind=SOLD_WORK, key=place_of(name, number), body=None),
                ]
            )
        self._look_at(name, sold)
        return messages.Vouched(count=sold.payee.count)

    async def recalled(self, message: messages.Recall) -> messages.Recalled:
        """What is attested of an award of which its client got nothing; what is not at work here has failed by this.

        Raises:
            NotFound: no such tab is open here.
            Conflict: it is still at work here; ask again (``at_work``).
            Refusal: as ``execute``.
        """
        award = message.award
        name, number = award.body.tab, award.body.number
        sold = self._open_here(name)
        if sold.payee.at_work.get(number) != award:
            self._take(sold, award)
            await self._keep_work(award, None)
        if number in sold.running:
            raise Conflict("this award is not attested yet", reason="at_work")
        said = sold.payee.attestation(number)
        if said is None:
            said = self._lost(award)
            await self._attest(name, number, said)
        return messages.Recalled(attestation=said)

    async def ended(self, message: messages.EndTab) -> messages.Acknowledged:
        """The client works under this tab no more.

        Raises:
            NotFound: no such tab is open here.
            Forbidden: that is not its client's word.
        """
        said = signing.verify(message.end)
        name = said.body.tab
        sold = await self._known(name)
        if said.by != sold.opened.key:
            raise Forbidden("only its client ends a tab", reason="not_by_client")
        await self._end(name, sold)
        self._look_at(name, sold)
        return messages.Acknowledged()

    async def leave(self) -> None:
        """Take nothing more under any tab, and settle them as they fall due."""
        for name, sold in list(self._tabs.items()):
            await self._end(name, sold)
            self._look_at(name, sold)

    async def settled(self) -> None:
        """Return once no tab is open here."""
        async with self._seen:
            await self._seen.wait_for(lambda: not self._tabs)

    async def seen(self, rows: Iterable[TabRow]) -> None:
        """The ledger has opened or closed these."""
        for row in rows:
            sold = self._tabs.pop(row.id, None) if row.value is None else None
            if sold is not None:
                await self._forget(row.id, list(sold.payee.at_work))
        async with self._seen:
            self._seen.notify_all()

    async def run(self) -> None:
        """Settle what falls due."""
        clock, period_ms = self._desk.clock, self._desk.config.tabs.look_ms
        while True:
            async with self._seen:
                await self._seen.wait_for(lambda: bool(self._tabs))
            for name, sold in list(self._tabs.items()):
                self._look_at(name, sold)
            await clock.sleep_until_ms(clock.monotonic_ms() + period_ms)

    async def _known(self, name: EntryId) -> _Sold:
        """A tab that is open to this provider, once this copy of the ledger has it. Raises NotFound, Forbidden."""
        desk = self._desk
        if name not in self._tabs:
            try:
                async with asyncio.timeout(desk.config.tabs.known_ms / 1_000), self._seen:
                    await self._seen.wait_for(lambda: self._tab(name) is not None)
            except TimeoutError:
                raise NotFound("no such tab is open", reason="not_open") from None
        if name not in self._tabs:
            opened = self._tab(name)
            assert opened is not None, "it was waited for"
            own = desk.key.account
            if not desk.config.tabs.accepted or desk.owned_by(own) != opened.provider or opened.key is None:
                raise Forbidden("this provider does not work under that tab", reason="no_tabs")
            if len(self._tabs) >= TABS_MAX:
                raise Exhausted("this provider has as many tabs as it can", retry_after_ms=desk.config.tabs.declined_ms)
            self._tabs[name] = _Sold(opened, Payee(self._tally(name, opened), desk.account_of))
            await self._write_tab(name, self._tabs[name])
            async with self._seen:
                self._seen.notify_all()
        return self._tabs[name]

    def _open_here(self, name: EntryId) -> _Sold:
        sold = self._tabs.get(name)
        if sold is None:
            raise NotFound("no such tab is open here", reason="not_open")
        return sold

    def _tally(self, name: EntryId, opened: OpenTab) -> Tally:
        return Tally(name, opened, self._rule())

    def _take(self, sold: _Sold, award: Signed[TabAward]) -> EntryId:
        desk, terms = self._desk, award.body.award
        if sold.ending:
            raise Conflict("this tab is to be settled: open another", reason="tab_ends")
        execution.check_award(terms, sold.opened.client, desk.key.account, desk.clock.now_ms())
        signing.verify(terms.winner)
        sold.payee.take(award)
        name = name_of(award.body)
        self._names[name] = (award.body.tab, award.body.number)
        return name

    async def _turn_away(self, stream: Stream, channel: Channel, award: Signed[TabAward], refusal: Refusal) -> None:
        """Attest at once that nothing was done."""
        attested = self._lost(award)
        await self._attest(award.body.tab, award.body.number, attested)
        given = messages.AttestationGiven(attestation=attested, reason=refusal.message[:512])
        await stream.send(channel.seal(ATTESTED + canonical.encode(given), last=True))
        await stream.finish()

    def _lost(self, award: Signed[TabAward]) -> Signed[Attestation]:
        desk = self._desk
        name = name_of(award.body)
        return execution.lost(desk.key, name, award.body.award, desk.fingerprint, desk.clock.now_ms())

    async def _attest_lost(self, name: EntryId) -> None:
        """Of what is not running, nothing more will come."""
        sold = self._tabs[name]
        for number, award in sold.payee.at_work.items():
            if number not in sold.running and sold.payee.attestation(number) is None:
                await self._attest(name, number, self._lost(award))

    async def _attest(self, name: EntryId, number: Count, attestation: Signed[Attestation]) -> None:
        """Once for each award: of two attestations its client would take the cheaper."""
        sold = self._tabs.get(name)
        if sold is None or sold.payee.attestation(number) is not None:
            return
        award = sold.payee.at_work[number]
        sold.payee.attested(number, attestation)
        await self._keep_work(award, attestation)

    async def _keep_work(self, award: Signed[TabAward], attestation: Signed[Attestation] | None) -> None:
        body = canonical.encode(SoldWork(award=award, attestation=attestation))
        place = place_of(award.body.tab, award.body.number)
        await self._desk.store.write([Change(kind=SOLD_WORK, key=place, body=body)])

    async def _end(self, name: EntryId, sold: _Sold) -> None:
        if not sold.ending:
            sold.ending = True
            await self._write_tab(name, sold)

    async def _write_tab(self, name: EntryId, sold: _Sold) -> None:
        body = canonical.encode(SoldTab(ending=sold.ending))
        await self._desk.store.write([Change(kind=SOLD, key=name, body=body)])

    async def _forget(self, name: EntryId, numbers: list[Count]) -> None:
        """All but the receipts."""
        for award_id in [known for known, (tab, _) in self._names.items() if tab == name]:
            del self._names[award_id]
        work = [Change(kind=SOLD_WORK, key=place_of(name, number), body=None) for number in numbers]
        await self._desk.store.write([Change(kind=SOLD, key=name, body=None), *work])

    def _look_at(self, name: EntryId, sold: _Sold) -> None:
        now_ms, config = self._desk.clock.now_ms(), self._desk.config
        ends = sold.ending or now_ms >= sold.opened.expires_ms - config.tabs.settle_before_ms
        if not ends or now_ms < sold.due_ms or (sold.settling is not None and not sold.settling.done()):
            return
        sold.settling = self._spawn(self._settle(name, sold))

    async def _settle(self, name: EntryId, sold: _Sold) -> None:
        """With the latest voucher, once nothing at work will be paid for later; at the end with what there is."""
        try:
            await self._end(name, sold)
            await self._attest_lost(name)
            clock_ms, config = self._desk.clock.now_ms(), self._desk.config
            left_ms = sold.opened.expires_ms - clock_ms
            now_ms = max(self._ledger_now_ms(), clock_ms - config.ledger.stale_time_ms)  # when the entry is admitted
            last = left_ms <= config.tabs.settle_before_ms // 4
            if name not in self._tabs or not (sold.payee.is_due(now_ms) or last):
                return
            sold.due_ms = clock_ms + config.claim_retry_ms
            await self._submit(sold.payee.settlement(now_ms))
        except Refusal as refusal:
            _log.info("the settlement of tab %s was refused: %s", name, refusal.message)
