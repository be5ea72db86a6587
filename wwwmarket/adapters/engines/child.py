"""A server in a child process: started, awaited, and never left behind.

The child prints one line ``wwwmarket-engine port=N`` when it answers, and ends when its standard input does, so that
it cannot outlive its parent however that one ends.
"""

import asyncio
import contextlib
import os
import re
import sys
import threading
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from wwwmarket.domain.errors import Unavailable

LOG_LINES_KEPT: Final = 40
LOG_LINE_BYTES_MAX: Final = 64 * 1024
STOP_TIMEOUT_S: Final = 5.0
RESTART_AFTER_MS: Final = 5_000
_READY: Final = re.compile(rb"^wwwmarket-engine port=(\d{1,5})\s*$")


def announce(port: int) -> None:
    """In the child: tell the parent that the server answers at ``port``."""
    print(f"wwwmarket-engine port={port}", flush=True)  # noqa: T201 - the parent reads it


def exit_with_parent() -> None:
    """In the child: block until standard input ends, then end the process whatever else it is doing."""
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(0)


def watch_parent() -> None:
    """In the child: the same in a thread beside the server."""
    threading.Thread(target=exit_with_parent, daemon=True, name="parent-watch").start()


class ChildServer:
    """A running child and the port that it announced."""

    def __init__(self, process: Process, stop_timeout_s: float, heard: Callable[[str], None] | None) -> None:
        self._process = process
        self._stop_timeout_s = stop_timeout_s
        self._heard = heard
        self._log: deque[str] = deque(maxlen=LOG_LINES_KEPT)
        self._port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._readers = asyncio.gather(self._drain(process.stdout), self._drain(process.stderr))

    @classmethod
    async def start(
        cls,
        module: str,
        arguments: Sequence[str],
        *,
        ready_timeout_s: float,
        stop_timeout_s: float = STOP_TIMEOUT_S,
        heard: Callable[[str], None] | None = None,
    ) -> "ChildServer":
        """Run ``python -m module arguments`` and wait until it announces its port; ``heard`` gets each line of its log.

        Raises:
            Unavailable: it ended or was not ready in time; the message carries its last log lines.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *arguments),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            limit=LOG_LINE_BYTES_MAX,
            # a terminal's interrupt is for the parent, which then closes the child in order
            start_new_session=True,
        )
        server = cls(process, stop_timeout_s, heard)
        ended = asyncio.ensure_future(process.wait())
        try:
            async with asyncio.timeout(ready_timeout_s):
                await asyncio.wait({server._port, ended}, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            await server.close()
            raise Unavailable(
                f"{module} was not ready in {ready_timeout_s:g} s{server.log_tail()}", retry_after_ms=RESTART_AFTER_MS
            ) from None
        except BaseException:
            await server.close()
            raise
        finally:
            ended.cancel()
        if not server._port.done():
            await server.close()
            raise Unavailable(
                f"{module} ended with code {process.returncode}{server.log_tail()}", retry_after_ms=RESTART_AFTER_MS
            )
        return server

    @property
    def port(self) -> int:
        return self._port.result()

    @property
    def pid(self) -> int:
        return self._process.pid

    def log_tail(self) -> str:
        """The child's last lines, each on its own line."""
        return "".join(f"\n  {line}" for line in self._log)

    async def _drain(self, stream: asyncio.StreamReader | None) -> None:
        assert stream is not None, "both outputs are pipes"
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # a line over the limit: the reader has dropped it
                continue
            if not line:
                return
            ready = _READY.match(line)
            if ready and not self._port.done():
                self._port.set_result(int(ready[1]))
            else:
                self._note(line.decode(errors="replace").rstrip())

    def _note(self, line: str) -> None:
        self._log.append(line)
        if self._heard is not None:
            self._heard(line)

    async def close(self) -> None:
        """Stop the child: politely, then not. Returns when it is gone. Safe to call twice."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            try:
                async with asyncio.timeout(self._stop_timeout_s):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._readers
