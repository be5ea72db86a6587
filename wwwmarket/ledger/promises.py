"""Watches the promises that an operator gave to one author, and says which it has broken and what shows it.

It is told of every entry and every checkpoint of one copy of the log, in order. It says of each broken promise once,
as soon as a checkpoint shows it, what does (``ledger.evidence`` says why); a kept one is forgotten. It knows no clock:
time is what the operator's marks say.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from wwwmarket.domain.evidence import BrokenPromise
from wwwmarket.domain.identity import AccountId, EntryId
from wwwmarket.domain.records import Body, Inclusion, Mark, Signed
from wwwmarket.domain.shape import Value
from wwwmarket.ledger.evidence import place
from wwwmarket.ledger.merkle import NodeReader

WATCHED_MAX: Final = 65_536
"""Promises of entries that no mark has covered: minutes of one author's traffic. The oldest give way."""
BROKEN_MAX: Final = 64
"""Broken promises that wait for a checkpoint; more would prove nothing more."""


class Breach(Value):
    """A broken promise: the entries at ``indices`` show it, in a checkpoint of ``size_min`` to ``size_max`` entries."""

    promise: Signed[Inclusion]
    indices: tuple[int, ...]
    size_min: int
    size_max: int | None = None


class Promises:
    def __init__(self) -> None:
        self._waiting: OrderedDict[int, Signed[Inclusion]] = OrderedDict()
        self._recent: OrderedDict[int, EntryId] = OrderedDict()
        """Entries since the last mark: an entry may be here before its promise is."""
        self._broken: list[Breach] = []
        self._overdue: dict[int, Breach] = {}
        self._operator_at: int | None = None
        """The operator's latest entry."""

    def promised(self, promise: Signed[Inclusion]) -> None:
        """Take a promise that its signer did give. Of an entry that a mark here has covered already it says nothing."""
        index = promise.body.index
        if self._operator_at is not None and index < self._operator_at:
            return
        if self._recent.get(index, promise.body.entry) != promise.body.entry:
            self._break(Breach(promise=promise, indices=(index,), size_min=index + 1))
            return
        self._waiting[index] = promise
        if len(self._waiting) > WATCHED_MAX:
            self._waiting.popitem(last=False)

    def applied(self, index: int, entry: EntryId, author: AccountId, body: Body, operator: AccountId) -> None:
        """The next entry of the log, while ``operator`` orders it."""
        self._recent[index] = entry
        if len(self._recent) > WATCHED_MAX:
            self._recent.popitem(last=False)
        promise = self._waiting.get(index)
        if promise is not None and promise.body.entry != entry:
            del self._waiting[index]
            self._break(Breach(promise=promise, indices=(index,), size_min=index + 1))
        if author != operator:
            return
        before, self._operator_at = self._operator_at, index
        if isinstance(body, Mark):
            self._recent.clear()
            self._marked(index, before, body.at_ms)

    def covered(self, size: int) -> Sequence[Breach]:
        """A checkpoint of ``size`` entries by the operator: what it shows."""
        shown = [each for each in self._broken if each.size_min <= size]
        self._broken = [each for each in self._broken if each.size_min > size]
        overdue = [index for index, each in self._overdue.items() if each.size_max == size]
        for index in overdue:
            shown.append(self._overdue.pop(index))
            self._waiting.pop(index, None)
        return shown

    def _marked(self, index: int, before: int | None, at_ms: int) -> None:
        for due, promise in list(self._waiting.items()):
            late = at_ms > promise.body.covered_by_ms
            if due < index:
                del self._waiting[due]
                self._overdue.pop(due, None)
                if late and before is not None and before < due:
                    self._break(Breach(promise=promise, indices=(before, index), size_min=index + 1))
            elif late:
                size = index + 1
                self._overdue[due] = Breach(promise=promise, indices=(index,), size_min=size, size_max=size)

    def _break(self, breach: Breach) -> None:
        if len(self._broken) < BROKEN_MAX:
            self._broken.append(breach)


def make_evidence(breach: Breach, note: bytes, size: int, leaves: Sequence[bytes], node: NodeReader) -> BrokenPromise:
    """What proves it: ``leaves`` are the entries at its indices, ``node`` reads the tree of ``size`` of ``note``."""
    entries = tuple(place(leaf, index, size, node) for leaf, index in zip(leaves, breach.indices, strict=True))
    return BrokenPromise(promise=breach.promise, note=note.decode(), entries=entries)
