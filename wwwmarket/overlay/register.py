"""Who has said what: one's own word, and the latest believed one of everybody in view, in reserve, dead or gone.

It promises that of each node the latest word is kept, whoever brought it and in whatever order, and that all of it is
bounded. Whether a node is alive is for others to find out.
"""

from wwwmarket.crypto import canonical
from wwwmarket.crypto.signing import KeyPair, Verified
from wwwmarket.domain.errors import Refusal
from wwwmarket.domain.identity import NodeId
from wwwmarket.domain.model import ModelName
from wwwmarket.domain.quantity import Millis
from wwwmarket.domain.records import NodeAddress, Signed
from wwwmarket.domain.shape import Value
from wwwmarket.overlay.announcement import accept, announce, is_expired, supersedes
from wwwmarket.overlay.chance import Chance
from wwwmarket.overlay.params import OverlayParams
from wwwmarket.overlay.records import ANNOUNCEMENTS_MAX, Announcement, LoadDigest
from wwwmarket.overlay.reservoir import Acquaintance, Reservoir
from wwwmarket.overlay.view import View


class Profile(Value):
    """What a node says of itself: the models that it serves, and those that it is asked for."""

    address: NodeAddress
    serves: tuple[ModelName, ...] = ()
    wants: tuple[ModelName, ...] = ()
    load: LoadDigest = LoadDigest()


class Register:
    def __init__(  # noqa: PLR0913, PLR0917 - what a member begins with
        self, key: KeyPair, profile: Profile, params: OverlayParams, view: View, secret: bytes, at_ms: Millis
    ) -> None:
        self._key = key
        self._me = NodeId(key.account)
        self._params = params
        self._view = view
        self._profile = profile
        self._changed = False
        self.reservoir = Reservoir(params, secret)
        self.buried: dict[NodeId, Verified[Announcement]] = {}
        """The last words of the dead, and the farewells of who left."""
        self.own = self._sign(at_ms, after_ms=0, leaving=False)
        self._issued_ms = at_ms

    def describe(self, profile: Profile, at_ms: Millis) -> None:
        """Announce ``profile`` from now on; at once, unless the last time was a moment ago."""
        self._profile = profile
        self._changed = True
        self.refresh(at_ms)

    def refresh(self, at_ms: Millis) -> None:
        """Announce anew where it is time, or where there is news."""
        gap_ms = self._params.reissue_min_ms if self._changed else self._params.refresh_ms
        if at_ms >= self._issued_ms + gap_ms:
            self._issue(at_ms, after_ms=self.own.body.issued_ms)

    def refute(self, doubted_ms: Millis, at_ms: Millis) -> Signed[Announcement]:
        """One's own word, later than the doubted one; a second doubt within a moment has to wait."""
        if self.own.body.issued_ms == doubted_ms and at_ms >= self._issued_ms + self._params.reissue_min_ms:
            self._issue(at_ms, after_ms=doubted_ms)
        return self.own.signed

    def farewell(self, at_ms: Millis) -> Signed[Announcement]:
        self.own = self._sign(at_ms, after_ms=self.own.body.issued_ms, leaving=True)
        return self.own.signed

    def latest(self, node: NodeId) -> Signed[Announcement] | None:
        """The latest word of another that is kept."""
        peer = self.find(node)
        said = self.buried.get(node) if peer is None else peer.said
        return None if said is None else said.signed

    def find(self, node: NodeId) -> Acquaintance | None:
        """A node in view or in reserve."""
        link = self._view.links.get(node)
        return self.reservoir.get(node) if link is None else link.peer

    def hear(self, signed: Signed[Announcement], source: NodeId | None, at_ms: Millis) -> bool:
        """Take in what ``source`` (None for a stranger) hands on. True where it is news of another, and believed.

        What is not news is dropped before anything is computed; what is news has to pass ``accept``.
        """
        node = signed.body.address.node
        held = self.own.signed if node == self._me else self.latest(node)
        if held is not None and not supersedes(signed, held):
            return False
        try:
            said = accept(signed, at_ms, self._params)
        except Refusal:
            return False
        if node == self._me:
            self._issue(at_ms, after_ms=said.body.issued_ms)
            return False
        self._keep(said, source)
        return True

    def bury(self, node: NodeId) -> None:
        """It is dead: nothing that it has said so far brings it back."""
        peer = self.find(node)
        self._view.remove(node)
        self.reservoir.remove(node)
        if peer is not None:
            self._inter(peer.said)

    def forget_old(self, at_ms: Millis) -> None:
        """Drop what nobody would accept any more; the dead are remembered, for they may come back."""
        self.reservoir.discard(lambda peer: is_expired(peer.said.body, at_ms, self._params))
        for node, said in list(self.buried.items()):
            if said.body.leaving and is_expired(said.body, at_ms, self._params):
                del self.buried[node]

    def tell(
        self, chance: Chance, at_ms: Millis, reader: NodeId, first: Signed[Announcement] | None = None
    ) -> tuple[Signed[Announcement], ...]:
        """Announcements for ``reader``: one's own, ``first`` if there is one, some farewells, and a random sample."""
        told = [self.own.signed] if first is None else [self.own.signed, first]
        gone = [said.signed for said in self.buried.values() if said.body.leaving]
        told += chance.sample(gone, self._params.farewells_max)
        room_bytes = self._params.shuffle_bytes_max
        pool = [link.peer for link in self._view.links.values()] + self.reservoir.all()
        for peer in chance.sample(pool, ANNOUNCEMENTS_MAX):
            room_bytes -= peer.size_bytes
            if len(told) >= ANNOUNCEMENTS_MAX or room_bytes < 0:
                break
            if peer.node != reader and not is_expired(peer.said.body, at_ms, self._params):
                told.append(peer.said.signed)
        return tuple(told)

    def _keep(self, said: Verified[Announcement], source: NodeId | None) -> None:
        node = said.body.address.node
        self.buried.pop(node, None)
        if said.body.leaving:
            self._view.remove(node)
            self.reservoir.remove(node)
            self._inter(said)
            return
        size_bytes = len(canonical.encode(said.signed))
        if node in self._view:
            self._view.said(node, said, size_bytes)
            return
        held = self.reservoir.get(node)
        round_trip_ms = None if held is None else held.round_trip_ms
        self.reservoir.put(Acquaintance(said=said, source=source, size_bytes=size_bytes, round_trip_ms=round_trip_ms))

    def _inter(self, said: Verified[Announcement]) -> None:
        self.buried[said.body.address.node] = said
        if len(self.buried) > self._params.buried_max:
            oldest = min(self.buried.values(), key=lambda said: (said.body.issued_ms, said.by))
            del self.buried[oldest.body.address.node]

    def _issue(self, at_ms: Millis, after_ms: Millis) -> None:
        self.own = self._sign(at_ms, after_ms=after_ms, leaving=False)
        self._issued_ms = at_ms
        self._changed = False

    def _sign(self, at_ms: Millis, *, after_ms: Millis, leaving: bool) -> Verified[Announcement]:
        profile = self._profile
        said = Announcement(
            address=profile.address,
            serves=profile.serves,
            wants=profile.wants,
            load=profile.load,
            issued_ms=max(at_ms, after_ms + 1),
            leaving=leaving,
        )
        return announce(self._key, said)
