"""Draws from chance that arrived in events: the same events, the same draws."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final, TypeVar

from wwwmarket.overlay.records import Nonce

T = TypeVar("T")

CHANCE_BYTES: Final = 32


class Chance:
    """A stream of SHA-256 over a counter, keyed by all the chance stirred in so far. Unpredictable to who lacks it."""

    def __init__(self, chance: bytes) -> None:
        self._key = b""
        self._drawn = 0
        self.stir(chance)

    def stir(self, chance: bytes) -> None:
        """Add fresh chance, 32 bytes."""
        assert len(chance) == CHANCE_BYTES, "chance comes in 32 bytes"
        self._key = sha256(self._key + chance).digest()
        self._drawn = 0

    def bytes(self) -> bytes:
        """32 bytes."""
        self._drawn += 1
        return sha256(self._key + self._drawn.to_bytes(8, "big")).digest()

    def below(self, bound: int) -> int:
        """An integer in [0, bound). 128 bits are reduced, so the bias is nil for any bound in use."""
        return int.from_bytes(self.bytes()[:16], "big") % bound

    def nonce(self) -> Nonce:
        return self.bytes()[:8].hex()

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """``count`` of ``items``, or all where they are fewer, in random order."""
        pool = list(items)
        count = min(count, len(pool))
        for place in range(count):
            other = place + self.below(len(pool) - place)
            pool[place], pool[other] = pool[other], pool[place]
        return pool[:count]

    def state(self) -> str:
        """For comparing replays."""
        return sha256(self._key + self._drawn.to_bytes(8, "big")).hexdigest()
