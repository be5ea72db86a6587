"""Mirrors of a committee, as the operator of a log asks them for cosignatures (C2SP tlog-witness)."""

from typing import Protocol

from wwwmarket.domain.shape import Value


class MirrorAnswer(Value):
    """What a stranger answered over HTTP, its body bounded and not yet read."""

    status: int
    media_type: str
    body: bytes


class Mirrors(Protocol):
    async def add_checkpoint(self, url: str, body: bytes, *, timeout_ms: int) -> MirrorAnswer:
        """Post ``body`` to the mirror at ``url``.

        Raises:
            Unavailable: nobody answers there in time.
            TooLarge: the answer is longer than signature lines can be.
        """
        ...

    async def successions(self, url: str, *, timeout_ms: int) -> bytes:
        """What the mirror at ``url`` knows of how its log changed hands, as canonical bytes of certified statements.

        Raises:
            NotFound, Unavailable: it does not say, or not in time.
            TooLarge: more than any log can have.
        """
        ...
