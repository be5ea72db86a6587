"""What the door of a mirror may ask of it."""

from typing import Protocol

from wwwmarket.domain.quantity import Count
from wwwmarket.domain.shape import Value
from wwwmarket.mirror.events import Cosigned, Refused, Served


class MirrorStatus(Value):
    """How a mirror is: ``condemned`` says why it cosigns this log no more."""

    origin: str
    mirror: str
    cosigned_size: Count
    ledger_size: Count
    ledger_time_ms: Count
    state_root: str
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

    def verifier_key(self) -> str:
        """The log's."""
        ...

    def status(self) -> MirrorStatus: ...
