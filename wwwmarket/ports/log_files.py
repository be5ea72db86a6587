"""A log as somebody publishes it: static files (C2SP tlog-tiles), by a stranger who may be slow, wrong or gone."""

from typing import Protocol


class LogFiles(Protocol):
    async def read(self, path: str, *, bytes_max: int) -> bytes:
        """A file, such as ``checkpoint`` or ``tile/0/000``.

        Raises:
            NotFound: there is none.
            TooLarge: it has more than ``bytes_max`` bytes.
            Unavailable: it cannot be read now, or not in time.
        """
        ...
