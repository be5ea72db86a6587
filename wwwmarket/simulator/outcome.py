"""How a run ends: passed, without progress, in two histories, or in breach of what a checker watches."""

from typing import TypeAlias

from wwwmarket.domain.shape import Value


class Pass(Value):
    digest: str


class NoProgress(Value):
    """``waiting`` requests had no end when the time or the events ran out, at ``step``."""

    waiting: int
    step: int


class Diverged(Value):
    """What must agree does not: the same seed gave two histories, or honest mirrors made two states of one log."""

    first: str
    second: str


class Violated(Value):
    """``checker`` found a breach after ``step`` events."""

    checker: str
    step: int


Outcome: TypeAlias = Pass | NoProgress | Diverged | Violated
