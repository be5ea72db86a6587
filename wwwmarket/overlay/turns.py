"""When each recurring thing is done next."""

from collections.abc import Mapping

from wwwmarket.domain.quantity import Millis
from wwwmarket.overlay.chance import Chance


class Turns:
    """``gaps_ms`` are the first gaps by name. First turns are spread, so that who starts together does not act so."""

    def __init__(self, gaps_ms: Mapping[str, Millis], chance: Chance, at_ms: Millis) -> None:
        self.next_ms = {name: at_ms + gap_ms // 2 + chance.below(gap_ms) for name, gap_ms in gaps_ms.items()}

    def is_due(self, name: str, at_ms: Millis, gap_ms: Millis) -> bool:
        """Whether it is time; if so, the next is in ``gap_ms``. Turns missed are not made up for."""
        if at_ms < self.next_ms[name]:
            return False
        self.next_ms[name] = at_ms + gap_ms
        return True
