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
"""Places that are promised, and that no mark has covered: minutes of one author's traffic. The oldest give way."""
RIVALS_MAX: Final = 8
"""Entries that are promised one place; more would prove nothing more."""
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
        self._waiting: OrderedDict[int, dict[EntryId, Signed[Inclusion]]] = OrderedDict()
        """By the promised index: of several entries that are promised one place all but one will be displaced."""
        self._recent: OrderedDict[int, EntryId] = OrderedDict()
        """Entries since the last mark: an entry may be here before its promise is."""
        self._broken: list[Breach] = []
        self._overdue: dict[tuple[int, EntryId], Breach] = {}
        self._operator_at: int | None = None
        """The operator's latest entry."""
        self._marked_at = -1

    def promised(self, promise: Signed[Inclusion]) -> None:
        """Take a promise that its signer did give. Of an entry that a mark here has covered already it says nothing."""
        index, entry = promise.body.index, promise.body.entry
        if index <= self._marked_at:
            return
        if self._recent.get(index, entry) != entry:
            self._break(Breach(promise=promise, indices=(index,), size_min=index + 1))
            return
        here = self._waiting.setdefault(index, {})
        known = here.get(entry)
        if known is None and len(here) >= RIVALS_MAX:
            return
        if known is None or promise.body.covered_by_ms < known.body.covered_by_ms:
            here[entry] = promise
        if len(self._waiting) > WATCHED_MAX:
            self._forget(next(iter(self._waiting)))

    def applied(self, index: int, entry: EntryId, author: AccountId, body: Body, operator: AccountId) -> None:
        """The next entry of the log, while ``operator`` orders it."""
        self._recent[index] = entry
        if len(self._recent) > WATCHED_MAX:
            self._recent.popitem(last=False)
        for name, promise in list(self._waiting.get(index, {}).items()):
            if name != entry:
                self._forget(index, name)
                self._break(Breach(promise=promise, indices=(index,), size_min=index + 1))
        if author != operator:
            return
        before, self._operator_at = self._operator_at, index
        if isinstance(body, Mark):
            self._recent.clear()
            self._marked_at = index
            self._marked(index, before, body.at_ms)

    def covered(self, size: int) -> Sequence[Breach]:
        """A checkpoint of ``size`` entries by the operator: what it shows."""
        shown = [each for each in self._broken if each.size_min <= size]
        self._broken = [each for each in self._broken if each.size_min > size]
        overdue = [each for each in self._overdue.values() if each.size_max == size]
        for each in overdue:
            self._forget(each.promise.body.index, each.promise.body.entry)
        return [*shown, *overdue]

    def _marked(self, index: int, before: int | None, at_ms: int) -> None:
        for due, promises in list(self._waiting.items()):
            late = [each for each in promises.values() if at_ms > each.body.covered_by_ms]
            if due <= index:
                self._forget(due)
                if before is not None and before < due < index:
                    for promise in late:
                        self._break(Breach(promise=promise, indices=(before, index), size_min=index + 1))
                continue
            size = index + 1
            for promise in late:
                breach = Breach(promise=promise, indices=(index,), size_min=size, size_max=size)
                self._overdue[due, promise.body.entry] = breach

    def _forget(self, index: int, entry: EntryId | None = None) -> None:
        """What is promised for that place, or that entry there."""
        here = self._waiting[index]
        for name in list(here) if entry is None else [entry]:
            del here[name]
            self._overdue.pop((index, name), None)
        if not here:
            del self._waiting[index]

    def _break(self, breach: Breach) -> None:
        if len(self._broken) < BROKEN_MAX:
            self._broken.append(breach)


def make_evidence(breach: Breach, note: bytes, size: int, leaves: Sequence[bytes], node: NodeReader) -> BrokenPromise:
    """What proves it: ``leaves`` are the entries at its indices, ``node`` reads the tree of ``size`` of ``note``."""
    entries = tuple(place(leaf, index, size, node) for leaf, index in zip(leaves, breach.indices, strict=True))
    return BrokenPromise(promise=breach.promise, note=note.decode(), entries=entries)
