"""Whom this node has lately been let down by: such are asked last, for a while that doubles with each time.

It promises that only what this node saw itself counts, that one kept promise clears a name, and that nobody is shut
out: where nobody else is left, the distrusted are asked. It does not know what was promised.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from wwwmarket.domain.identity import NodeId
from wwwmarket.domain.quantity import Count, Millis
from wwwmarket.domain.shape import Value
from wwwmarket.overlay.neighbours import S

FIRST_MS: Final = 30_000
"""After one failure: an engine that restarts is back by then."""
LONGEST_MS: Final = 3_600_000
REMEMBERED_MAX: Final = 4_096
"""Names; the one that failed longest ago is forgotten first. New names are free, and get a newcomer's share."""


class Distrust(Value):
    """``failures`` in a row, the last of which counts until ``until_ms``."""

    failures: Count
    until_ms: Millis


class Trust:
    def __init__(self) -> None:
        self._distrusted: OrderedDict[NodeId, Distrust] = OrderedDict()

    def failed(self, node: NodeId, at_ms: Millis) -> None:
        """It broke a promise, or did not answer. Failures of one outage count as one."""
        held = self._distrusted.pop(node, None)
        if held is None:
            held = Distrust(failures=1, until_ms=at_ms + FIRST_MS)
        elif at_ms >= held.until_ms:
            lasting_ms = min(LONGEST_MS, FIRST_MS << min(held.failures, 16))
            held = Distrust(failures=held.failures + 1, until_ms=at_ms + lasting_ms)
        self._distrusted[node] = held
        if len(self._distrusted) > REMEMBERED_MAX:
            self._distrusted.popitem(last=False)

    def kept(self, node: NodeId) -> None:
        """It did what it had promised."""
        self._distrusted.pop(node, None)

    def distrusts(self, node: NodeId, at_ms: Millis) -> bool:
        held = self._distrusted.get(node)
        return held is not None and at_ms < held.until_ms

    def order(self, sited: Sequence[S], at_ms: Millis) -> list[S]:
        """The same in the same order, but the distrusted after all others."""
        return sorted(sited, key=lambda one: self.distrusts(one.node, at_ms))
