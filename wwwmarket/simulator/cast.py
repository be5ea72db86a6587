"""Providers with a program of their own in place of the honest one.

Greedy, over- and under-promising and slow ones are in ``providing`` and ``world``: they differ by a number alone.
"""

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from wwwmarket.crypto.signing import KeyPair, Verified, VerifiedEntry, sign
from wwwmarket.domain.identity import AccountId, Digest, EntryId
from wwwmarket.domain.quantity import Prices
from wwwmarket.domain.records import Ask, Award, Bid, Offer
from wwwmarket.market import execution, offer
from wwwmarket.simulator.books import Books
from wwwmarket.simulator.providing import LIST_PRICE, Provider
from wwwmarket.simulator.world import Character, NodeTwin, World

SILENT: Final[frozenset[Character]] = frozenset({"silent", "sybil-silent"})
"""They are there, and answer no bid."""
_NEXT_TO_NOTHING: Final = Prices(input_micro_per_mtok=1, cached_input_micro_per_mtok=1, output_micro_per_mtok=1)
_BIDS_REMEMBERED: Final = 4_096
_WHOLE_PPM: Final = 1_000_000


class Ring:
    """Who of a ring of providers was asked first for each bid: for that one the others make room."""

    def __init__(self) -> None:
        self._first: dict[Digest, EntryId] = {}

    def is_turn(self, bid: Digest, offered: EntryId) -> bool:
        if len(self._first) > _BIDS_REMEMBERED:
            del self._first[next(iter(self._first))]
        return self._first.setdefault(bid, offered) == offered


class Honest(Provider):
    """As ``providing`` has it, at a node's own list price, and for a stated share of the bids of others.

    ``own`` is the account of the node's own clients, who are never turned away by chance.
    """

    def __init__(self, world: World, books: Books, node: NodeTwin, key: KeyPair, own: AccountId) -> None:
        self._own = own
        self._accept_ppm = _WHOLE_PPM if node.accept is None else round(node.accept * _WHOLE_PPM)
        self._chance = world.chance(f"accept/{node.index}")
        self._price = node.spec.price
        super().__init__(world, books, node, key)

    def _offer(self) -> Offer:
        usual = super()._offer()
        prices = Prices(
            input_micro_per_mtok=round(usual.prices.input_micro_per_mtok * self._price),
            cached_input_micro_per_mtok=round(usual.prices.cached_input_micro_per_mtok * self._price),
            output_micro_per_mtok=round(usual.prices.output_micro_per_mtok * self._price),
        )
        return replace(usual, prices=prices, accept_ppm=self._accept_ppm)

    def answer(self, bid: Verified[Bid]) -> offer.Effect:
        if bid.by != self._own and self._chance.randrange(_WHOLE_PPM) >= self._accept_ppm:
            return offer.BidDeclined(reason="the provider's policy accepts a share of bids only", retry_after_ms=1_000)
        return super().answer(bid)


class Liar(Provider):
    """Asks next to nothing, promises to be done at once, and never begins."""

    def answer(self, bid: Verified[Bid]) -> offer.Effect:
        return _resigned(
            self.key,
            super().answer(bid),
            lambda ask: replace(ask, prices=_NEXT_TO_NOTHING, predicted_ttft_ms=1, predicted_finish_ms=1),
        )

    def execute(
        self, entry: VerifiedEntry, award: Award, output_tokens: int, listener: Callable[[execution.Effect], None]
    ) -> None:
        """Take it, and leave it."""


class AtCeiling(Provider):
    """Asks its list price, whatever its load."""

    def answer(self, bid: Verified[Bid]) -> offer.Effect:
        return _resigned(self.key, super().answer(bid), _at_ceiling)


class InRing(Provider):
    """Asks truthfully where it was the first of its ring to be asked, else its list price: to be a dear runner-up."""

    def __init__(self, world: World, books: Books, node: NodeTwin, key: KeyPair, ring: Ring) -> None:
        super().__init__(world, books, node, key)
        self._ring = ring

    def answer(self, bid: Verified[Bid]) -> offer.Effect:
        answer = super().answer(bid)
        if isinstance(answer, offer.AskSent) and not self._ring.is_turn(answer.ask.body.bid, self.offer):
            return _resigned(self.key, answer, _at_ceiling)
        return answer


def provider(  # noqa: PLR0913, PLR0917 - what a provider begins with
    world: World, books: Books, node: NodeTwin, key: KeyPair, own: AccountId, ring: Ring
) -> Provider:
    """Whoever plays this node's character."""
    match node.character:
        case "lying" | "sybil-lying":
            return Liar(world, books, node, key)
        case "ceiling":
            return AtCeiling(world, books, node, key)
        case "ring":
            return InRing(world, books, node, key, ring)
        case _:
            return Honest(world, books, node, key, own)


def _at_ceiling(ask: Ask) -> Ask:
    return replace(ask, prices=LIST_PRICE)


def _resigned(key: KeyPair, answer: offer.Effect, change: Callable[[Ask], Ask]) -> offer.Effect:
    return offer.AskSent(ask=sign(key, change(answer.ask.body))) if isinstance(answer, offer.AskSent) else answer
