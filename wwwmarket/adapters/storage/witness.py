"""How long the log has been, beside the database: a file that tells when the database lost its end.

SQLite's write-ahead log can vanish or be cut without a fault: what is left is a database, only an older one. This file
says how many entries were committed, so an older database is known for what it is. It is written after each commit and
synced at each checkpoint: a killed process loses nothing of it, a power failure no more than came since a checkpoint.
"""

import os
from pathlib import Path
from typing import Final, Self

from wwwmarket.crypto.digest import tagged
from wwwmarket.domain.errors import Unavailable

_SIZE_BYTES: Final = 8
_CHECK_BYTES: Final = 8


class Witness:
    """The file ``{database}.promised``: a size, and a digest that tells a torn one."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self.size = size

    @classmethod
    def open(cls, database: Path) -> Self:
        """Raises Unavailable when the file cannot be opened. One that is torn witnesses nothing."""
        path = database.with_name(database.name + ".promised")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            kept = os.pread(descriptor, _SIZE_BYTES + _CHECK_BYTES, 0)
        except OSError as error:
            raise Unavailable(f"{path} cannot be used: {error.strerror}", retry_after_ms=1_000) from None
        size = int.from_bytes(kept[:_SIZE_BYTES], "big")
        return cls(descriptor, size if kept == _text(size) else 0)

    def saw(self, size: int) -> None:
        """So many entries are durable. Raises OSError: the disk is full."""
        if size > self.size:
            os.pwrite(self._descriptor, _text(size), 0)
            self.size = size

    def forget(self, size: int) -> None:
        """The log may end after so many entries again. Raises OSError."""
        if size < self.size:
            os.pwrite(self._descriptor, _text(size), 0)
            self.sync()
            self.size = size

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


def _text(size: int) -> bytes:
    data = size.to_bytes(_SIZE_BYTES, "big")
    return data + bytes.fromhex(tagged("promised/v1", data))[:_CHECK_BYTES]
