"""What the door of a mirror may ask of it."""

from typing import Protocol

from wwwmarket.domain.quantity import Count
from wwwmarket.domain.shape import Value
from wwwmarket.mirror.events import Cosigned, Refused, Served


class MirrorStatus(Value):
    """How a mirror is: ``condemned`` says why it cosigns this log no more, ``successor`` to whom it swore that the log
    goes; ``decrees`` counts the committee's.
    """

    origin: str
    mirror: str
    cosigned_size: Count
    ledger_size: Count
    ledger_time_ms: Count
    state_root: str
    decrees: Count
    successor: str | None
    condemned: str | None


class MirrorService(Protocol):
    async def add_checkpoint(self, body: bytes) -> Cosigned | Refused:
        """Answer C2SP tlog-witness ``add-checkpoint``. Raises TooLarge."""
        ...

    def served(self) -> Served:
        """What was cosigned last. Raises Unavailable until something was."""
        ...

    async def tile(self, path: str) -> bytes:
        """The bytes of ``tile/…``. Raises Malformed, NotFound, Unavailable."""
        ...

    def successions(self) -> bytes:
        """How the log changed hands: canonical bytes of what quorums of its committee signed, oldest first."""
        ...

    def verifier_key(self) -> str:
        """The log's."""
        ...

    def status(self) -> MirrorStatus: ...
