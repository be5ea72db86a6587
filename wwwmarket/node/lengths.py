"""Learnt output lengths, kept over a restart: each habit is a record of this node's store, rewritten as it is learnt.

Records bind nobody, so they wait to share a commit with others: a crash forgets the last moment's lessons.
"""

import logging
from typing import Annotated, Final

from msgspec import Meta

from wwwmarket.crypto import canonical
from wwwmarket.dispatch.output_length import Habit, Memory, OutputLength, OutputLengths
from wwwmarket.domain.errors import Refusal
from wwwmarket.domain.identity import AccountId
from wwwmarket.domain.model import ModelName
from wwwmarket.domain.quantity import Tokens
from wwwmarket.domain.shape import Value
from wwwmarket.ports.store import Change, RecordStore

_log = logging.getLogger("wwwmarket.lengths")

HABIT: Final = "habit"
_MILLION: Final = 1_000_000
_Micro = Annotated[int, Meta(ge=0, le=2**53 - 1)]


class KeptHabit(Value):
    """``dispatch.output_length.Habit`` in millionths: canonical bytes have no floats."""

    client: AccountId | None
    model: ModelName
    answers_micro: _Micro
    mean_micro: Annotated[int, Meta(ge=-(2**53) + 1, le=2**53 - 1)]
    squares_micro: _Micro


class Lengths:
    def __init__(self, learnt: OutputLengths) -> None:
        self._learnt = learnt

    async def restore(self, store: RecordStore) -> None:
        """Go on with what was learnt before; what cannot be read is learnt anew."""
        memories: list[Memory] = []
        unread: list[Change] = []
        for key, body in await store.scan(HABIT):
            try:
                memories.append(_memory(canonical.decode(body, KeptHabit)))
            except Refusal as refusal:
                _log.warning("a learnt output length is forgotten: %s", refusal.message)
                unread.append(Change(kind=HABIT, key=key, body=None))
        forgotten = [_change(memory) for memory in self._learnt.remember(memories)]
        if unread or forgotten:
            await store.write([*unread, *forgotten])

    def expected(self, client: AccountId, model: ModelName, max_output_tokens: Tokens) -> OutputLength:
        return self._learnt.expected(client, model, max_output_tokens)

    def observe(
        self, client: AccountId, model: ModelName, output_tokens: Tokens, *, max_output_tokens: Tokens
    ) -> list[Change]:
        """Learn from an answer that ran to its end; returns what to keep of it, some time."""
        changed = self._learnt.observe(client, model, output_tokens, max_output_tokens=max_output_tokens)
        return [_change(memory) for memory in changed]


def _change(memory: Memory) -> Change:
    key = f"{memory.client or 'all'} {memory.model}"
    habit = memory.habit
    if habit is None:
        return Change(kind=HABIT, key=key, body=None)
    kept = KeptHabit(
        client=memory.client,
        model=memory.model,
        answers_micro=round(habit.answers * _MILLION),
        mean_micro=round(habit.mean * _MILLION),
        squares_micro=round(habit.squares * _MILLION),
    )
    return Change(kind=HABIT, key=key, body=canonical.encode(kept))


def _memory(kept: KeptHabit) -> Memory:
    habit = Habit(
        answers=kept.answers_micro / _MILLION, mean=kept.mean_micro / _MILLION, squares=kept.squares_micro / _MILLION
    )
    return Memory(client=kept.client, model=kept.model, habit=habit)
