"""One writing process for each database file."""

import fcntl
import os
from pathlib import Path
from typing import Self

from wwwmarket.domain.errors import Conflict


class FileLock:
    """An advisory lock (flock) on a file beside the database, which holds the owner's process number.

    The kernel drops it when the process ends in whatever way. The file stays: its removal would race with the next
    owner.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, database: Path) -> Self:
        """Raises Conflict, with the owner's process number, when another holds it."""
        path = database.with_name(database.name + ".lock")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise Conflict(
                f"{database} is being written by process {owner}: stop that one, or give this one another database",
                reason="database_in_use",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return cls(descriptor)

    def release(self) -> None:
        os.close(self._descriptor)
