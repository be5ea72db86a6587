"""Auctioneers' receipts and what providers make of them: the product's ``Outcomes`` and ``judge``, in the simulator.

And the three ways in which an auctioneer favours a friend. It hands the award to it over better asks (*favouring*),
leaves those out of the award besides (*omitting*), or lists them in no receipt either (*denying*).
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from wwwmarket.crypto.signing import KeyPair, Verified, VerifiedEntry, sign
from wwwmarket.domain.errors import Refusal
from wwwmarket.domain.identity import Digest, EntryId
from wwwmarket.domain.records import Ask, AsksReceived, Award, Bid, Evidence
from wwwmarket.market import evidence, outcomes
from wwwmarket.market.auction import Decided
from wwwmarket.rules.registry import AwardRule
from wwwmarket.simulator.providing import Provider
from wwwmarket.simulator.world import Character, NodeTwin, World

CORRUPT: Final[frozenset[Character]] = frozenset({"favouring", "omitting", "denying"})
PATIENCE_MS: Final = 10_000
KEPT_MS: Final = 60_000
"""As a live node has them."""


def friend_of(world: World, node: NodeTwin) -> NodeTwin:
    """The next provider of the same model."""
    same = world.by_model[node.spec.serves]
    return same[(same.index(node) + 1) % len(same)]


def favour(decided: Decided, character: Character, friend: EntryId) -> Decided:
    """What a corrupt auctioneer makes of an auction: the same where its friend is not in it, or wins anyway."""
    standings = decided.standings
    place = next((i for i, standing in enumerate(standings) if standing.candidate.offer == friend), 0)
    if not place:
        return decided
    passed_over = {standing.digest for standing in standings[:place]}
    kept = decided.digests if character == "favouring" else tuple(d for d in decided.digests if d not in passed_over)
    return replace(decided, standings=standings[place:], digests=kept)


class Reviewers:
    """Every provider's look back at its asks, by index of the auctioneer's node.

    ``wronged`` counts asks that were better than their award's winner; ``proven`` those of which the evidence was
    judged to prove it, and ``suspected`` those that look left out without proof.
    """

    def __init__(self, rule: AwardRule, offers: Mapping[EntryId, VerifiedEntry]) -> None:
        self.wronged: Counter[int] = Counter()
        self.proven: Counter[int] = Counter()
        self.suspected: Counter[int] = Counter()
        self._rule = rule
        self._offers = offers
        self._machines: dict[EntryId, outcomes.Outcomes] = {}
        self._entries: dict[EntryId, VerifiedEntry] = {}
        self._auctioneers: dict[Digest, int] = {}
        self._index = 0

    def asked(self, provider: Provider, bid: Bid, ask: Verified[Ask], auctioneer: int) -> None:
        """A provider has answered a bid."""
        if provider.offer not in self._machines:
            self._machines[provider.offer] = outcomes.Outcomes(self._rule, patience_ms=PATIENCE_MS, kept_ms=KEPT_MS)
        self._auctioneers[ask.body.bid] = auctioneer
        made = outcomes.AskMade(at_ms=bid.issued_ms, bid=bid, ask=ask.signed, terms=provider.terms)
        self._step(provider.offer, made)

    def awarded(self, entry: VerifiedEntry, award: Award, bid: Digest) -> None:
        """An award stands on the ledger, for everybody to see."""
        self._index += 1
        self._entries[entry.id] = entry
        seen = outcomes.AwardSeen(index=self._index, name=entry.id, bid=bid, award=award)
        for offered, machine in self._machines.items():
            if machine.awaits(bid) is not None:
                self._step(offered, seen)

    def received(self, provider: Provider, receipt: Verified[AsksReceived]) -> None:
        if provider.offer in self._machines:
            self._step(provider.offer, outcomes.ReceiptArrived(received=receipt))

    def time_moved(self, at_ms: int) -> None:
        for offered in self._machines:
            self._step(offered, outcomes.TimeMoved(at_ms=at_ms))

    def _step(self, offered: EntryId, event: outcomes.Event) -> None:
        for effect in self._machines[offered].step(event):
            match effect:
                case outcomes.Concluded():
                    outcome = effect.outcome
                    is_suspect = outcome.verdict in {"unproven", "unacknowledged"}
                    self.suspected[self._auctioneers[outcome.bid]] += is_suspect
                case outcomes.Accuse():
                    self._accuse(offered, effect)

    def _accuse(self, offered: EntryId, accused: outcomes.Accuse) -> None:
        named = accused.received.body.award
        assert named is not None, "an accusation is about an award that the receipt names"
        shown = Evidence(
            ask=accused.ask,
            received=accused.received,
            award=self._entries[named].leaf.decode(),
            offer=self._offers[offered].leaf.decode(),
        )
        try:
            evidence.judge(shown, self._rule)
        except Refusal:
            return
        self.proven[self._auctioneers[accused.ask.body.bid]] += 1


def receipt(key: KeyPair, bid: Digest, asks: tuple[Digest, ...], award: EntryId, at_ms: int) -> Verified[AsksReceived]:
    return sign(key, AsksReceived(bid=bid, asks=asks, award=award, at_ms=at_ms))
