"""How a run ends: passed, without progress, not the same twice, or in breach of what a checker watches."""

from typing import TypeAlias

from wwwmarket.domain.shape import Value


class Pass(Value):
    digest: str


class NoProgress(Value):
    """``waiting`` requests had no end when the time or the events ran out, at ``step``."""

    waiting: int
    step: int


class Diverged(Value):
    """The same seed gave another history."""

    first: str
    second: str


class Violated(Value):
    """``checker`` found a breach after ``step`` events."""

    checker: str
    step: int


Outcome: TypeAlias = Pass | NoProgress | Diverged | Violated
