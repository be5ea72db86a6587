"""What a node answers to its gateway and to the command line: ``node.service.Service`` over a ``Node``."""

from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final, Literal

from msgspec.structs import replace

from wwwmarket import __version__
from wwwmarket.crypto import canonical, signing
from wwwmarket.crypto.digest import digest, request_digest, tagged
from wwwmarket.domain.book import ListedOffer, OpenAward
from wwwmarket.domain.errors import Conflict, Exhausted, Malformed, NotFound, Unavailable
from wwwmarket.domain.identity import AccountId, Digest, EntryId
from wwwmarket.domain.model import ModelName
from wwwmarket.domain.quantity import Count, MicroCredits
from wwwmarket.domain.records import Bid, Certified, Decree, Evidence, Inclusion, Resolution, Signed, TabSettlement
from wwwmarket.domain.standing import Standing
from wwwmarket.ledger.bundles import encode_bundle
from wwwmarket.ledger.merkle import HASH_BYTES
from wwwmarket.ledger.tiles import TILE_WIDTH, BundleId, TileId, parse_path
from wwwmarket.market.allowance import NO_LIMITS, Limits
from wwwmarket.market.tab import TabProof, prove
from wwwmarket.node.award_records import AWARD, AwardRecord
from wwwmarket.node.budgets import metered
from wwwmarket.node.delivery import Decision
from wwwmarket.node.handover import Goods
from wwwmarket.node.node import Node
from wwwmarket.node.proving import Proving
from wwwmarket.node.reviewing import Reviewing
from wwwmarket.node.service import (
    AccountView,
    ApiKeyView,
    AsksView,
    Counters,
    DeliveryEvent,
    Explanation,
    Finality,
    GovernanceView,
    NodeStatus,
    Preferences,
    ProviderView,
    Purchase,
    ReceiptView,
)
from wwwmarket.node.speaking import heard
from wwwmarket.node.tokenizing import ask_around, request_of
from wwwmarket.rules.succession import write_successions

_UNSETTLED: Final[tuple[Finality, ...]] = ("none", "final", "pending")
"""Of several things together the last that is true of one."""
_AUCTIONS_KEPT_MAX: Final = 1_024
"""Auctions whose client signs for itself, until it does."""


class Answers:
    """Implements ``node.service.Service``, where each method is described."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._auctions: OrderedDict[Digest, Decision] = OrderedDict()
        self._proving = Proving(node.replica, node.world.ledger)

    # Buying

    async def purchase(self, purchase: Purchase) -> AsyncGenerator[DeliveryEvent]:
        node = self._node
        self._check_open()
        node.measures.count("requests_total")
        allowance = await node.budgets.admit(purchase.account, purchase.model)
        cap = allowance.cap_micro(purchase.preferences.max_price_micro)
        purchase = replace(purchase, preferences=replace(purchase.preferences, max_price_micro=cap))
        async with (
            aclosing(node.buying.purchase(purchase)) as events,
            aclosing(metered(events, allowance, purchase, node.world.clock)) as counted,
        ):
            async for event in counted:
                yield event

    async def auction(self, bid: Signed[Bid]) -> Explanation:
        self._check_open()
        verified = heard(bid, self._node.replica.state.owned_by)
        now_ms = self._node.world.clock.now_ms()
        if verified.by != verified.body.client:
            raise Malformed("a bid is signed by its client", param="signed_bid")
        if verified.body.expires_ms <= now_ms:
            raise Malformed("the bid has expired: is your clock right?", param="expires_ms")
        decision = await self._node.buying.hold_auction(verified, Preferences())
        name = digest(verified.body)
        self._auctions[name] = decision
        if len(self._auctions) > _AUCTIONS_KEPT_MAX:
            self._auctions.popitem(last=False)
        return Explanation(
            id=EntryId(name),
            bid=verified.body,
            award=self._node.buying.propose(decision),
            status="pending",
            asks=decision.decided.judged,
            attempts=(),
            auction_ms=decision.auction_us / 1_000,
            ttft_ms=None,
            latency_ms=None,
            cost_micro=None,
            usage=None,
            inclusion=None,
            finality=self._finality(None),
        )

    async def accept(self, leaf: bytes, path: str, request: bytes, salt: bytes) -> AsyncGenerator[DeliveryEvent]:
        self._check_open()
        entry = signing.open_entry(leaf)
        award = self._node.read_award(entry)
        decision = self._auctions.get(digest(award.bid))
        if decision is None:
            raise NotFound("no auction of this bid is known here; POST the bid to /v1/bids first", param="award")
        if len(salt) != 32 or request_digest(salt, request) != award.bid.request_digest:
            raise Conflict("the request is not the one that was bid for: check its bytes and the salt", param="request")
        del self._auctions[digest(award.bid)]  # it is accepted once: a second execution would overwrite the first
        goods = Goods(path=path, request=request, salt=salt)
        async with aclosing(self._node.buying.accept(decision, entry, award, goods)) as events:
            async for event in events:
                yield event

    async def tokenize(self, model: ModelName, text: str) -> tuple[int, ...]:
        node = self._node
        candidates = node.buying.purse.order(node.buying.purse.candidates(model))
        if not candidates:
            raise NotFound("nobody offers this model", param="model", reason="model_not_found")
        request = request_of(model, text)
        if node.selling is not None and model in node.selling.models():
            return (await node.selling.tokenize(request)).tokens
        return await ask_around(node.world.transport, candidates, request)

    async def submit(self, leaf: bytes) -> Signed[Inclusion]:
        inclusion = await self._node.submission.submit(signing.open_entry(leaf))
        return inclusion.signed

    def _check_open(self) -> None:
        node = self._node
        if node.draining:
            raise Unavailable("this node is leaving the market; use another gateway", retry_after_ms=5_000)
        if node.buying.in_flight >= node.world.config.in_flight_max:
            raise Exhausted("this gateway carries as many requests as it can", retry_after_ms=1_000)

    # Looking

    async def explain(self, award: EntryId) -> Explanation:
        record = await self._record(award)
        return self._explanation(record, await self._tab_of(record))

    async def recent_awards(self, limit: int) -> Sequence[Explanation]:
        kept = await self._node.world.records.scan(AWARD, newest_first=True, limit=limit)
        records = [_read(body) for _, body in kept]
        return [self._explanation(record, await self._tab_of(record)) for record in records]

    def asks(self, limit: int) -> AsksView:
        return self._reviewing().view(limit)

    async def evidence(self, ask: Digest) -> Evidence:
        return await self._reviewing().evidence(ask)

    def _reviewing(self) -> Reviewing:
        if self._node.reviewing is None:
            raise NotFound("this node sells nothing")
        return self._node.reviewing

    async def receipt(self, award: EntryId) -> ReceiptView:
        record = await self._record(award)
        if record.attestation is None:
            raise NotFound("that award has no receipt: nothing was delivered, or it is still at work", param="id")
        tab = await self._tab_of(record)
        try:
            index: int | None = self._node.replica.settlement_of(tab or award)
        except NotFound:
            index = None
        return ReceiptView(
            award=award,
            receipt=record.receipt,
            attestation=record.attestation,
            cost_micro=record.cost_micro or 0,
            settlement_index=index,
            finality=self._finality(index),
            proof=None if index is None else f"/ledger/proof/entry/{index}",
            tab=tab,
        )

    async def tab_proof(self, award: EntryId) -> TabProof:
        place = await self._node.tabs_bought.tab_of(award)
        if place is None:
            raise NotFound("this node bought nothing of that name under a tab", param="id")
        receipts = [kept.receipt for kept in await self._node.tabs_bought.receipts(place.tab)]
        receipts = receipts[: await self._settled_count(place.tab, len(receipts))]
        index = next((at for at, one in enumerate(receipts) if one.award.body.number == place.number), None)
        if index is None:
            raise NotFound("that award is not among those that its tab's voucher pays for", param="id")
        return prove(place.tab, receipts, index)

    async def _settled_count(self, tab: EntryId, latest: Count) -> Count:
        """How many receipts the tab was settled with; all of them while it is open."""
        try:
            index = self._node.replica.settlement_of(tab)
        except NotFound:
            return latest
        (leaf,) = await self._node.world.ledger.read(index, index + 1)
        body = bytes(signing.open_entry(leaf).entry.body)
        settled = canonical.decode(body, TabSettlement, bytes_max=canonical.ENTRY_BYTES_MAX)
        return 0 if settled.voucher is None else settled.voucher.body.count

    async def _tab_of(self, record: AwardRecord) -> EntryId | None:
        """Where an award is promised by the ledger it is under no tab, which saves a look."""
        place = None if record.inclusion is not None else await self._node.tabs_bought.tab_of(record.id)
        return None if place is None else place.tab

    def account(self, account: AccountId) -> AccountView:
        state = self._node.replica.state
        next_seq, prev = state.chain_head(account)
        finality = self._node.replica.finality_of(account)
        return AccountView(
            id=account,
            balance=state.account(account),
            next_seq=next_seq,
            prev=prev,
            finality=finality,
            keys=state.keys(account),
            acts_for=state.account_of(account),
        )

    def provider(self, account: AccountId) -> ProviderView:
        replica = self._node.replica
        state = replica.state
        offers = tuple(sorted(name for name, listed in state.offers().items() if listed.provider == account))
        standing, rule = state.standing(account), state.rules.reputation
        bonded_micro = state.account(account).bonded_micro
        if not offers and not bonded_micro and standing == Standing():
            raise NotFound("this ledger knows of no such provider", param="id")
        return ProviderView(
            id=account,
            reputation=None if rule is None else rule.reputation(standing, state.now_ms),
            offers=offers,
            bonded_micro=bonded_micro,
            keys=state.keys(account),
            ledger_time_ms=state.now_ms,
            finality=max([replica.finality_of(account), *map(replica.finality_of, offers)], key=_UNSETTLED.index),
        )

    def offers(self, model: str | None = None) -> Sequence[tuple[EntryId, ListedOffer]]:
        state = self._node.replica.state
        return tuple((state.offers() if model is None else state.offers_for(model)).items())

    def offer_finality(self, offer: EntryId) -> Finality:
        return self._node.replica.finality_of(offer)

    def finality(self, index: Count) -> Finality:
        return self._node.replica.finality(index)

    def open_awards(self, account: AccountId | None = None) -> Sequence[tuple[EntryId, OpenAward]]:
        everything = self._node.replica.state.awards().items()
        return tuple((name, award) for name, award in everything if account in {None, award.client, award.provider})

    def governance(self) -> GovernanceView:
        replica = self._node.replica
        return GovernanceView(
            origin=replica.state.origin, ledger_size=replica.size, governance=replica.state.governance
        )

    async def decree(self, resolution: Certified[Resolution]) -> Signed[Inclusion]:
        signing.verify_certified(resolution)
        inclusion = await self._node.author.settle(self._node.account, Decree(resolution=resolution))
        return inclusion.signed

    def status(self) -> NodeStatus:
        node, replica = self._node, self._node.replica
        try:
            covered = replica.checkpoint.checkpoint.size
        except Unavailable:
            covered = 0
        selling = 0 if node.selling is None else node.selling.in_flight
        offers = replica.state.offers().values()
        return NodeStatus(
            node=node.id,
            account=node.account,
            address=node.world.transport.address(),
            origin=node.log.name,
            operator=node.log.account,
            is_operator=node.is_operator,
            ledger_size=replica.size,
            checkpoint_size=covered,
            final_size=replica.final_size,
            committee=replica.judges,
            ledger_time_ms=replica.state.now_ms,
            offers=len(offers),
            peers=len(node.neighbours.known.members),
            in_flight=node.buying.in_flight + selling,
            draining=node.draining,
            started_ms=node.started_ms,
            version=__version__,
            sequencers=() if node.turns is None else node.turns.addresses(),
            relays=() if node.relaying is None else node.relaying.relays,
        )

    def counters(self) -> Counters:
        status = self.status()
        gauges = {
            "in_flight": status.in_flight,
            "ledger_entries": status.ledger_size,
            "ledger_checkpoint_entries": status.checkpoint_size,
            "ledger_final_entries": status.final_size,
            "offers": status.offers,
            "open_awards": len(self._node.replica.state.awards()),
        }
        measures, relay_host = self._node.measures, self._node.world.relay_host
        counted = dict(measures.counters)
        if relay_host is not None:
            gauges["relayed_nodes"] = relay_host.holders
            counted |= relay_host.totals
        return Counters(
            counters={name: float(count) for name, count in counted.items()},
            gauges={name: float(value) for name, value in gauges.items()},
            histograms=measures.histograms(),
        )

    async def wait_settled(self, award: EntryId, timeout_ms: int) -> bool:
        return await self._node.wait_closed(award, timeout_ms)

    async def _record(self, award: EntryId) -> AwardRecord:
        recent = self._node.recent.get(award)
        if recent is not None:
            return recent
        body = await self._node.world.records.read(AWARD, award)
        if body is None:
            raise NotFound("this node made no such award; ask the node whose auction it was", param="id")
        return _read(body)

    def _explanation(self, record: AwardRecord, tab: EntryId | None) -> Explanation:
        return Explanation(
            id=record.id,
            bid=record.award.bid,
            award=record.award,
            status=self._status_of(record) if tab is None else self._status_under(tab),
            asks=record.judged,
            attempts=record.attempts,
            auction_ms=record.auction_us / 1_000,
            ttft_ms=record.ttft_ms,
            latency_ms=record.latency_ms,
            cost_micro=record.cost_micro,
            usage=record.usage,
            inclusion=record.inclusion,
            recount=record.recount,
            finality=self._finality(None if record.inclusion is None else record.inclusion.body.index),
        )

    def _finality(self, index: int | None) -> Finality:
        """Of an entry; what has no place yet is pending where anything ever becomes final."""
        replica = self._node.replica
        return replica.finality(replica.size if index is None else index)

    def _status_under(self, tab: EntryId) -> Literal["open", "settled", "expired"]:
        """Of an award under a tab: as its tab."""
        replica = self._node.replica
        if replica.state.tab(tab) is not None:
            return "open"
        try:
            replica.settlement_of(tab)
        except NotFound:
            return "expired"
        return "settled"

    def _status_of(self, record: AwardRecord) -> Literal["pending", "open", "settled", "expired", "refused"]:
        replica = self._node.replica
        if replica.state.award(record.id) is not None:
            return "open"
        try:
            replica.settlement_of(record.id)
        except NotFound:
            if record.inclusion is None:
                return "refused" if record.outcome == "failed" else "pending"
            return "expired" if replica.state.now_ms > record.award.expires_ms else "pending"
        return "settled"

    # Keys

    async def create_key(
        self, name: str, budget_micro: MicroCredits, limits: Limits = NO_LIMITS
    ) -> tuple[str, ApiKeyView]:
        return await self._node.budgets.create(name, budget_micro, limits)

    async def keys(self) -> Sequence[ApiKeyView]:
        return self._node.keyring.views()

    async def rotate_key(self, key_id: str) -> tuple[str, ApiKeyView]:
        return await self._node.budgets.rotate(key_id)

    async def limit_key(self, key_id: str, limits: Limits) -> ApiKeyView:
        return await self._node.budgets.limit(key_id, limits)

    async def revoke_key(self, key_id: str) -> ApiKeyView:
        return await self._node.budgets.revoke(key_id)

    async def pay(self, to: AccountId, amount_micro: MicroCredits, name: str | None = None) -> AccountView:
        await self._node.budgets.pay(to, amount_micro, name)
        return self.account(self._node.account)

    async def top_up(self, key_id: str, amount_micro: MicroCredits, name: str | None = None) -> ApiKeyView:
        return await self._node.budgets.top_up(key_id, amount_micro, name)

    async def refund(self, key_id: str, amount_micro: MicroCredits, name: str | None = None) -> ApiKeyView:
        return await self._node.budgets.refund(key_id, amount_micro, name)

    def authenticate(self, secret: str) -> ApiKeyView:
        return self._node.keyring.authenticate(secret)

    def is_admin(self, secret: str) -> bool:
        token = self._node.world.admin_token
        return token is not None and tagged("admin-token/v1", secret.encode("utf-8", "surrogatepass")) == token

    # The ledger as files

    def verifier_key(self) -> str:
        return self._node.log.text

    def successions(self) -> bytes:
        return write_successions(self._node.succeeding.known())

    async def checkpoint(self) -> bytes:
        replica = self._node.replica
        latest, final = replica.checkpoint, replica.final
        # The same tree with the cosignatures that made it final, as soon as it is.
        return latest.note if final is None or final.checkpoint != latest.checkpoint else final.note

    def final_checkpoint(self) -> bytes:
        replica = self._node.replica
        if replica.final is None:
            why = "is final yet" if replica.judges.members else "can be final: this market has no committee"
            raise NotFound(f"no checkpoint {why}")
        return replica.final.note

    async def tile(self, path: str) -> bytes:
        size = self._node.replica.checkpoint.checkpoint.size
        name = parse_path(path)
        match name:
            case BundleId():
                start = name.number * TILE_WIDTH
                if start + name.width > size:
                    raise NotFound("the latest checkpoint has no such entries")
                return encode_bundle(await self._node.world.ledger.read(start, start + name.width))
            case TileId():
                return await self._hashes(name)

    async def _hashes(self, tile: TileId) -> bytes:
        """A partial tile is the beginning of the full one, or of the latest partial one."""
        hashes = await self._node.world.ledger.tile(tile.level, tile.number)
        if hashes is None:
            hashes = self._node.replica.partial_tile(tile.level, tile.number)
        if hashes is None or len(hashes) < tile.width * HASH_BYTES:
            raise NotFound("the latest checkpoint has no such tile")
        return hashes[: tile.width * HASH_BYTES]

    async def entry_proof(self, index: Count) -> bytes:
        return await self._proving.entry(index)

    async def account_proof(self, account: AccountId) -> bytes:
        return await self._proving.account(account)


def _read(body: bytes) -> AwardRecord:
    return canonical.decode(body, AwardRecord, bytes_max=len(body))
