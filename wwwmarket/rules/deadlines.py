"""What falls due when: a heap that forgets."""

from heapq import heapify, heappop, heappush

from wwwmarket.domain.identity import EntryId
from wwwmarket.domain.quantity import Millis


class Deadlines:
    """Ids by instant. Removed ones stay in the heap until due, or until they are most of it."""

    def __init__(self) -> None:
        self._heap: list[tuple[Millis, EntryId]] = []
        self._live: dict[EntryId, Millis] = {}

    def __len__(self) -> int:
        return len(self._live)

    def add(self, name: EntryId, at_ms: Millis) -> None:
        assert name not in self._live, "an id falls due once"
        self._live[name] = at_ms
        heappush(self._heap, (at_ms, name))
        if len(self._heap) > 2 * len(self._live) + 64:
            self._heap = [(due_ms, live) for live, due_ms in self._live.items()]
            heapify(self._heap)

    def remove(self, name: EntryId) -> None:
        self._live.pop(name, None)

    def take_due(self, now_ms: Millis) -> list[EntryId]:
        """Remove and return what is due at ``now_ms`` or before, by (instant, id)."""
        due: list[EntryId] = []
        while self._heap and self._heap[0][0] <= now_ms:
            _, name = heappop(self._heap)
            if self._live.pop(name, None) is not None:
                due.append(name)
        return due
