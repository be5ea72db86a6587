"""Nodes in processes of their own: started, awaited for a bounded time, always ended."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from wwwmarket.cli.serving import Serving
from wwwmarket.domain.errors import Unavailable

START_TIMEOUT_S: Final = 40.0
STOP_TIMEOUT_S: Final = 10.0
POLL_S: Final = 0.02
LOG_LINES_SHOWN: Final = 15
LOG_BYTES_READ: Final = 16_384


class Child:
    """One ``wwwmarket`` command that serves. It ends with this process, whatever becomes of that."""

    def __init__(self, name: str, arguments: Sequence[str], directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.name: Final = name
        self._ready = directory / "ready.json"
        self._ready.unlink(missing_ok=True)
        self._log = directory / "log"
        self._told = False
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - this very program
                [
                    *(sys.executable, "-m", "wwwmarket", *arguments),
                    *("--data", str(directory), "--ready-file", str(self._ready), "--end-with-stdin"),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=environment(),
                start_new_session=True,  # a terminal's Ctrl-C is for the demo, which then ends its children in order
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()
        self.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """What it left with; None while it is at work."""
        return self._process.poll()

    def ready(self) -> Serving:
        """Wait until it serves.

        Raises:
            Unavailable: it ended, or did not serve in time; the message carries its last log lines.
        """
        until_s = time.monotonic() + START_TIMEOUT_S
        while not self._ready.exists():
            if self._process.poll() is not None:
                raise self._failed(f"{self.name} ended with code {self._process.returncode}")
            if time.monotonic() > until_s:
                raise self._failed(f"{self.name} did not serve within {START_TIMEOUT_S:g} s")
            time.sleep(POLL_S)
        return msgspec.json.decode(self._ready.read_bytes(), type=Serving)

    def end(self) -> None:
        """Ask it to leave in order, once: asked again it would stop at once. ``wait`` sees to it that it leaves."""
        if not self._told and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self._told = True

    def wait(self) -> None:
        """Until it is gone; at once when it is late."""
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()

    def _failed(self, what: str) -> Unavailable:
        return Unavailable(f"{what}; its log ends: {self._last_lines()}", retry_after_ms=1_000)

    def _last_lines(self) -> str:
        with self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - LOG_BYTES_READ))
            lines = log.read().decode("utf-8", "replace").splitlines()
        return " | ".join(lines[-LOG_LINES_SHOWN:]) or "(nothing)"


def environment() -> dict[str, str]:
    """This process's environment without the settings of other wwwmarket commands."""
    return {name: value for name, value in os.environ.items() if not name.startswith("WWWMARKET_")}
