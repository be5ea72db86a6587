"""One member of the overlay: joining, being heard of, knowing a few live neighbours, and leaving.

It promises that the view holds only nodes that have answered it themselves, that what it keeps and sends is bounded
whatever arrives, and that nothing which a peer says makes another node dead, alive or elsewhere. It does not know how
messages travel (the transport proves who sent one), what requests are, nor what any node is paid.

Assumes, against eclipse: a member's contacts are not all the attacker's, and the attacker holds a share of the
identities that are announced. Then the reservoir holds about that share of attackers (``reservoir``), random links are
drawn evenly from it, and so the attacker has about that share of them, whatever it sends. An attacker who is nearer
than everybody may take the near links besides. Where identities outnumber the honest without bound, parts by source
slow the attacker down, and links that live keep their places until their turn: nothing more can be promised for keys
that are free.
"""

from collections.abc import Sequence
from typing import Final, assert_never

from wwwmarket.crypto import canonical
from wwwmarket.crypto.digest import tagged
from wwwmarket.crypto.signing import KeyPair
from wwwmarket.domain.errors import Refusal
from wwwmarket.domain.identity import Digest, NodeId
from wwwmarket.domain.quantity import Millis
from wwwmarket.domain.records import NodeAddress, Signed
from wwwmarket.domain.shape import Value
from wwwmarket.overlay.announcement import accept
from wwwmarket.overlay.budget import Budget
from wwwmarket.overlay.chance import Chance
from wwwmarket.overlay.detection import Detector
from wwwmarket.overlay.events import (
    Described,
    Effect,
    Event,
    LeaveRequested,
    Left,
    MessageArrived,
    PeerUnreachable,
    Reply,
    RoundTripMeasured,
    Send,
    Started,
    Ticked,
    ViewChanged,
)
from wwwmarket.overlay.neighbours import Member, Neighbourhood
from wwwmarket.overlay.params import OverlayParams
from wwwmarket.overlay.records import Announcement, Nonce, Ping, PingRequest, Pong, Rumour, Shuffle, ShuffleAnswer
from wwwmarket.overlay.register import Profile, Register
from wwwmarket.overlay.relays import Relay, Relays
from wwwmarket.overlay.reservoir import Acquaintance
from wwwmarket.overlay.turns import Turns
from wwwmarket.overlay.view import Link, View

_USUAL: Final = OverlayParams()
_CONTACTS_AT_ONCE: Final = 3
"""Asked when starting; the others have their turn if these are silent."""
_FORGET_MS: Final = 10_000
"""Between looks for what has expired: a thirtieth of the age limit."""


class _Courtship(Value):
    """A ping to a candidate for the view."""

    nonce: Nonce
    sent_ms: Millis


class Membership:
    """``key`` signs this node's announcements. ``contacts`` are where to join: with none, the node waits to be joined.

    ``chance`` is 32 unpredictable bytes.
    """

    def __init__(  # noqa: PLR0913 - what a member begins with
        self,
        key: KeyPair,
        profile: Profile,
        contacts: Sequence[NodeAddress],
        *,
        at_ms: Millis,
        chance: bytes,
        params: OverlayParams = _USUAL,
    ) -> None:
        self._params = params
        self._me = NodeId(key.account)
        self._contacts = tuple(contact for contact in contacts if contact.node != self._me)
        self._chance = Chance(chance)
        self._view = View(params)
        self._register = Register(key, profile, params, self._view, self._chance.bytes(), at_ms)
        self._detector = Detector(params)
        self._courted: dict[NodeId, _Courtship] = {}
        self._asked: dict[NodeId, Millis] = {}
        self._relays = Relays(params.relays_max)
        self._watchers: dict[NodeId, Millis] = {}
        self._acquaintances = Budget(params.acquaintances_bytes_per_s, params.burst_bytes)
        self._strangers = Budget(params.strangers_bytes_per_s, params.burst_bytes)
        self._shuffle_gap_ms = params.hurried_ms
        self._rotation_gap_ms = params.hurried_ms
        self._turns = Turns(_first_gaps(params), self._chance, at_ms)
        self._introduced = False
        self._left = False

    @property
    def announcement(self) -> Signed[Announcement]:
        """This node's own, as it is told."""
        return self._register.own.signed

    def neighbourhood(self) -> Neighbourhood:
        """Whom this node knows now: neighbours that are not under suspicion, nearest first, and reserves."""
        links = sorted(self._view.links.values(), key=lambda link: (link.round_trip_ms, link.peer.node))
        return Neighbourhood(
            members=tuple(
                Member(said=link.peer.said.body, round_trip_ms=link.round_trip_ms)
                for link in links
                if not self._detector.is_suspected(link.peer.node)
            ),
            reserves=tuple(
                Member(said=peer.said.body, round_trip_ms=peer.round_trip_ms) for peer in self._register.reservoir.all()
            ),
        )

    def digest(self) -> Digest:
        """Of the whole state: two replays of the same events agree on it."""
        register = self._register
        state = (
            register.own.signed,
            sorted(self._view.links.items()),
            register.reservoir.all(),
            sorted((node, said.signed) for node, said in register.buried.items()),
            sorted(self._detector.probes.items()),
            sorted(self._courted.items()),
            sorted(self._asked.items()),
            sorted(self._relays.pending.items()),
            sorted(self._watchers.items()),
            sorted(self._turns.next_ms.items()),
            (self._acquaintances.level, self._strangers.level),
            (self._chance.state(), self._shuffle_gap_ms, self._rotation_gap_ms, self._introduced, self._left),
        )
        return tagged("membership/v1", canonical.encode(state))

    def step(self, event: Event) -> list[Effect]:
        if self._left:
            return []
        before = dict(self._view.links)
        effects = self._handle(event)
        added = tuple(link.peer.said.body for node, link in self._view.links.items() if node not in before)
        removed = tuple(node for node in before if node not in self._view)
        if added or removed:
            effects.append(ViewChanged(added=added, removed=removed))
        return effects

    def _handle(self, event: Event) -> list[Effect]:  # noqa: PLR0911 - one case an event
        match event:
            case Started():
                first = self._chance.sample(self._contacts, _CONTACTS_AT_ONCE)
                return [self._ask(contact, event.at_ms) for contact in first]
            case Described():
                self._register.describe(event.profile, event.at_ms)
                return []
            case Ticked():
                return self._tick(event)
            case MessageArrived():
                return self._arrived(event)
            case RoundTripMeasured():
                return self._measured(event)
            case PeerUnreachable():
                return self._unreachable(event)
            case LeaveRequested():
                return self._leave(event)
            case _:
                assert_never(event)

    def _tick(self, event: Ticked) -> list[Effect]:
        at_ms = event.at_ms
        self._chance.stir(event.chance)
        self._register.refresh(at_ms)
        self._forget(at_ms)
        return [
            *self._advance(at_ms),
            *self._probe(at_ms),
            *self._court(at_ms),
            *self._shuffle(at_ms),
            *self._reunite(at_ms),
        ]

    def _advance(self, at_ms: Millis) -> list[Effect]:
        """Probes whose time is up go one phase further; at the end of the last stands a burial."""
        effects: list[Effect] = []
        for node, phase in self._detector.advance(at_ms):
            link = self._view.links[node]
            match phase:
                case "indirect":
                    others = [other.peer.address for other in self._view.links.values() if other is not link]
                    helpers = self._chance.sample(others, self._params.helpers)
                    request = PingRequest(target=link.peer.said.signed)
                    effects += [Send(to=helper, message=request) for helper in helpers]
                case "dead":
                    self._register.bury(node)
                    self._detector.heard(node)
                case "direct" | "suspected":
                    pass
                case _:
                    assert_never(phase)
        return effects

    def _probe(self, at_ms: Millis) -> list[Effect]:
        if not self._turns.is_due("probe", at_ms, self._params.probe_ms):
            return []
        effects: list[Effect] = []
        for node in list(self._detector.probes):
            if self._detector.is_suspected(node):
                link = self._view.links[node]
                nonce = self._chance.nonce()
                self._detector.again(node, nonce, at_ms)
                effects.append(_ping(link, nonce, doubted_ms=link.peer.said.body.issued_ms))
        due = self._view.next_to_probe(set(self._detector.probes), at_ms)
        if due is not None:
            nonce = self._chance.nonce()
            self._detector.begin(due.peer.node, nonce, at_ms, due.round_trip_ms)
            effects.append(_ping(due, nonce, doubted_ms=None))
        return effects

    def _court(self, at_ms: Millis) -> list[Effect]:
        """Ping candidates: as many as the view lacks, and one from time to time once it is full."""
        due = self._turns.is_due("rotate", at_ms, self._rotation_gap_ms)
        if due:
            self._rotation_gap_ms = min(_longer(self._rotation_gap_ms), self._params.rotation_ms)
        wanted = min(self._view.short or int(due), self._params.courted_max) - len(self._courted)
        if wanted <= 0:
            return []
        free = [peer for peer in self._register.reservoir.all() if peer.node not in self._courted]
        bound_ms = self._view.near_bound_ms
        nearer = [peer for peer in free if _is_nearer(peer, bound_ms)]
        effects: list[Effect] = []
        for peer in self._chance.sample(nearer if nearer and self._chance.below(2) else free, wanted):
            courtship = self._courted[peer.node] = _Courtship(nonce=self._chance.nonce(), sent_ms=at_ms)
            effects.append(Send(to=peer.address, message=Ping(nonce=courtship.nonce)))
        return effects

    def _shuffle(self, at_ms: Millis) -> list[Effect]:
        """With a neighbour in turn; with a contact until one has answered, and rarely after.

        Whoever comes to a newcomer unasked may be an attacker alone: its own contacts are what it has against that.
        """
        effects: list[Effect] = []
        if self._turns.is_due("shuffle", at_ms, self._shuffle_gap_ms):
            self._shuffle_gap_ms = min(_longer(self._shuffle_gap_ms), self._params.shuffle_ms)
            link = self._view.next_to_shuffle(at_ms)
            if link is not None:
                effects.append(self._ask(link.peer.address, at_ms))
            if link is None or not self._introduced:
                effects += self._visit(self._contacts, at_ms)
        if self._turns.is_due("contact", at_ms, self._params.contact_ms):
            effects += self._visit([contact for contact in self._contacts if contact.node not in self._view], at_ms)
        return effects

    def _reunite(self, at_ms: Millis) -> list[Effect]:
        if not self._turns.is_due("reunite", at_ms, self._params.reunion_ms):
            return []
        lost = [said.body.address for said in self._register.buried.values() if not said.body.leaving]
        return self._visit(lost, at_ms)

    def _visit(self, addresses: Sequence[NodeAddress], at_ms: Millis) -> list[Effect]:
        return [self._ask(address, at_ms) for address in self._chance.sample(addresses, 1)]

    def _ask(self, to: NodeAddress, at_ms: Millis) -> Send:
        self._asked[to.node] = at_ms + self._params.shuffle_timeout_ms
        return Send(to=to, message=Shuffle(announcements=self._register.tell(self._chance, at_ms, to.node)))

    def _forget(self, at_ms: Millis) -> None:
        """Drop whatever has waited long enough."""
        self._asked = {node: deadline_ms for node, deadline_ms in self._asked.items() if at_ms < deadline_ms}
        self._relays.forget_old(at_ms)
        for node, courtship in list(self._courted.items()):
            if at_ms >= courtship.sent_ms + self._params.courtship_timeout_ms:
                self._jilted(node)
        if self._turns.is_due("forget", at_ms, _FORGET_MS):
            self._register.forget_old(at_ms)
        if self._turns.is_due("resample", at_ms, self._params.resample_ms):
            self._register.reservoir.resample(self._chance.bytes())

    def _jilted(self, node: NodeId) -> None:
        del self._courted[node]
        self._register.reservoir.remove(node)

    def _arrived(self, event: MessageArrived) -> list[Effect]:
        is_known = self._register.find(event.peer) is not None or event.peer in self._asked
        budget = self._acquaintances if is_known else self._strangers
        if event.peer == self._me or not budget.allows(event.at_ms):
            return []
        effects = self._read(event)
        self._detector.heard(event.peer)
        answered_bytes = sum(len(canonical.encode(effect)) for effect in effects)
        budget.spend(event.size_bytes + answered_bytes)
        return effects

    def _read(self, event: MessageArrived) -> list[Effect]:
        message = event.message
        match message:
            case Ping():
                return self._pinged(event, message)
            case Pong():
                return self._answered(event, message)
            case PingRequest():
                return self._relay(event, message)
            case Shuffle():
                return self._shuffled(event, message)
            case ShuffleAnswer():
                if event.peer in self._asked:
                    self._hear(message.announcements, event.peer, event.at_ms)
                    self._asked.pop(event.peer)
                    self._introduced |= any(contact.node == event.peer for contact in self._contacts)
                return []
            case Rumour():
                self._hear(message.announcements, event.peer, event.at_ms)
                return []
            case _:
                assert_never(message)

    def _pinged(self, event: MessageArrived, ping: Ping) -> list[Effect]:
        self._watchers.pop(event.peer, None)
        self._watchers[event.peer] = event.at_ms
        if len(self._watchers) > self._params.watchers_max:
            del self._watchers[next(iter(self._watchers))]
        doubted_ms = ping.doubted_ms
        refutation = None if doubted_ms is None else self._register.refute(doubted_ms, event.at_ms)
        return [Reply(to=event.peer, message=Pong(nonce=ping.nonce, refutation=refutation))]

    def _answered(self, event: MessageArrived, pong: Pong) -> list[Effect]:
        """A pong measures a neighbour, lets a candidate in, or goes on to whom it was asked for."""
        peer = event.peer
        if pong.refutation is not None:
            self._hear((pong.refutation,), peer, event.at_ms)
        round_trip_ms = self._detector.answered(peer, pong.nonce, event.at_ms)
        if round_trip_ms is not None and peer in self._view:
            self._view.measured(peer, round_trip_ms)
        courtship = self._courted.get(peer)
        if courtship is not None and courtship.nonce == pong.nonce:
            del self._courted[peer]
            self._let_in(peer, event.at_ms - courtship.sent_ms, event.at_ms)
        relay = self._relays.take(pong.nonce, peer)
        if relay is None or pong.refutation is None:
            return []
        return [Send(to=NodeAddress(node=relay.asker), message=Rumour(announcements=(pong.refutation,)))]

    def _let_in(self, node: NodeId, round_trip_ms: Millis, at_ms: Millis) -> None:
        peer = self._register.reservoir.remove(node)
        if peer is None:
            return
        gone = self._view.place(peer, round_trip_ms, at_ms)
        if gone is not None:
            self._detector.heard(gone.node)
            self._register.reservoir.put(gone)

    def _relay(self, event: MessageArrived, request: PingRequest) -> list[Effect]:
        """Probe for another; only an address under its own node's signature is ever pinged."""
        if self._relays.is_full:
            return []
        try:
            target = accept(request.target, event.at_ms, self._params).body
        except Refusal:
            return []
        if target.address.node in {self._me, event.peer}:
            return []
        nonce = self._chance.nonce()
        deadline_ms = event.at_ms + self._params.helpers_timeout_ms
        self._relays.add(nonce, Relay(asker=event.peer, target=target.address.node, deadline_ms=deadline_ms))
        return [Send(to=target.address, message=Ping(nonce=nonce, doubted_ms=target.issued_ms))]

    def _shuffled(self, event: MessageArrived, shuffle: Shuffle) -> list[Effect]:
        """Tell as much as one was told, and to who speaks too old a word for itself, the later one."""
        self._hear(shuffle.announcements, event.peer, event.at_ms)
        latest = self._register.latest(event.peer)
        is_behind = latest is not None and latest not in shuffle.announcements
        told = self._register.tell(self._chance, event.at_ms, event.peer, first=latest if is_behind else None)
        return [Reply(to=event.peer, message=ShuffleAnswer(announcements=told))]

    def _source(self, peer: NodeId) -> NodeId | None:
        """To whose part goes what ``peer`` tells: to its own, if it was chosen by us."""
        return peer if peer in self._view or peer in self._asked else None

    def _hear(self, announcements: Sequence[Signed[Announcement]], peer: NodeId, at_ms: Millis) -> None:
        """What those tell whom we did not choose counts of themselves, and of whom we know already."""
        source = self._source(peer)
        for signed in announcements:
            node = signed.body.address.node
            is_known = node in {peer, self._me} or self._register.latest(node) is not None
            if source is None and not is_known:
                continue
            if self._register.hear(signed, source, at_ms):
                self._detector.heard(node)

    def _measured(self, event: RoundTripMeasured) -> list[Effect]:
        if event.peer in self._view:
            self._view.measured(event.peer, event.round_trip_ms)
        else:
            self._register.reservoir.measured(event.peer, event.round_trip_ms)
        return []

    def _unreachable(self, event: PeerUnreachable) -> list[Effect]:
        peer = event.peer
        self._asked.pop(peer, None)
        if peer in self._courted:
            self._jilted(peer)
        link = self._view.links.get(peer)
        if link is not None:
            if peer not in self._detector.probes:
                self._detector.begin(peer, self._chance.nonce(), event.at_ms, link.round_trip_ms)
            self._detector.unreachable(peer, event.at_ms)
        return []

    def _leave(self, event: LeaveRequested) -> list[Effect]:
        """Farewell to neighbours, and to those who have lately shown by their probes that they are one's neighbours."""
        self._left = True
        rumour = Rumour(announcements=(self._register.farewell(event.at_ms),))
        told = {node: NodeAddress(node=node) for node in self._watchers}
        told |= {node: link.peer.address for node, link in self._view.links.items()}
        return [*(Send(to=address, message=rumour) for address in told.values()), Left()]


def _first_gaps(params: OverlayParams) -> dict[str, Millis]:
    return {
        "probe": params.probe_ms,
        "shuffle": params.hurried_ms,
        "rotate": params.hurried_ms,
        "reunite": params.reunion_ms,
        "contact": params.contact_ms,
        "resample": params.resample_ms,
        "forget": _FORGET_MS,
    }


def _ping(link: Link, nonce: Nonce, doubted_ms: Millis | None) -> Send:
    return Send(to=link.peer.address, message=Ping(nonce=nonce, doubted_ms=doubted_ms))


def _longer(gap_ms: Millis) -> Millis:
    return gap_ms + gap_ms // 4


def _is_nearer(peer: Acquaintance, bound_ms: Millis | None) -> bool:
    return bound_ms is not None and peer.round_trip_ms is not None and peer.round_trip_ms < bound_ms
