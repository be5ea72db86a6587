"""Programs that serve until they are told to leave: their signals, and the files by which others find them."""

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, Self

import msgspec

from wwwmarket.cli.output import say
from wwwmarket.domain.errors import Malformed, NotFound, Refusal, Unavailable
from wwwmarket.domain.identity import AccountId
from wwwmarket.domain.shape import Value
from wwwmarket.node.sequencer import SUPERSEDED

INTERRUPTED: Final = 130
RUNNING: Final = "running.json"
ANEW_AFTER_S: Final = 1.0
"""A new operator may have to be started still."""
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Serving(Value):
    """What a program that serves says of itself. ``openai`` is its gateway's base address for OpenAI's clients."""

    gateway: str
    openai: str
    account: AccountId
    vkey: str
    admin_token_file: str
    data: str
    pid: int


def fields_of(serving: Serving, *, json: bool) -> dict[str, object]:
    """What to print of it: for programs all, for people what they can use."""
    names = [name for name in serving.__struct_fields__ if json or name != "pid"]
    return {name: getattr(serving, name) for name in names}


class Interrupts:
    """SIGINT, SIGTERM, and optionally the end of standard input.

    While somebody waits here, the first asks for an orderly end; the next, or one that comes earlier, ends at once.
    """

    def __init__(self, *, stdin: bool) -> None:
        self._stdin = stdin
        self._loop = asyncio.get_running_loop()
        self._told = asyncio.Event()
        self._waiting = False
        self._main = asyncio.current_task()

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._loop.add_signal_handler(number, self._tell)
        if self._stdin:
            threading.Thread(target=self._watch_stdin, daemon=True, name="stdin-watch").start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number in _SIGNALS:
            self._loop.remove_signal_handler(number)

    async def wait(self, failed: Coroutine[None, None, None]) -> None:
        """Until somebody asks for an end. Raises what ``failed`` raises."""
        self._waiting = True
        told, broken = asyncio.create_task(self._told.wait()), asyncio.create_task(failed)
        done, pending = await asyncio.wait({told, broken}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        if broken in done:
            broken.result()

    def _tell(self) -> None:
        if self._waiting and not self._told.is_set():
            self._told.set()
            return
        for number in _SIGNALS:
            self._loop.remove_signal_handler(number)
        assert self._main is not None
        self._main.cancel()

    def _watch_stdin(self) -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        with contextlib.suppress(RuntimeError):  # the loop may be closed by now
            self._loop.call_soon_threadsafe(self._tell)


async def anew_after_each_succession(serve: Callable[[int], Awaitable[None]]) -> None:
    """Serve, and again each time that the log has gone to another operator; ``serve`` hears how often it has begun.

    That the log has gone is the word of a quorum of the committee, which the node that ended has verified and stored.
    So it begins with the new operator, whatever address it was given, and waits where that does not answer yet. Raises
    what else ends ``serve``.
    """
    begun = 0
    while True:
        try:
            await serve(begun)
        except Refusal as refusal:
            if refusal.reason != SUPERSEDED and not (begun and isinstance(refusal, Unavailable)):
                raise
            say(f"Starting anew: {refusal.message}")
            begun += 1
            await asyncio.sleep(ANEW_AFTER_S)
        else:
            return


def run_until_told(program: Coroutine[None, None, None]) -> None:
    """Run ``program``; one that was ended at once leaves with 130."""
    try:
        asyncio.run(program)
    except asyncio.CancelledError:
        _leave()


def _leave() -> NoReturn:
    say("Stopped at once; what was promised is kept, and goes on at the next start.")
    sys.exit(INTERRUPTED)


@contextlib.contextmanager
def announcing(data: Path, ready_file: Path | None) -> Iterator[Callable[[Serving], None]]:
    """Gives what writes ``Serving`` into ``data`` and to ``ready_file``; both are gone when the block has ended.

    Around all that serves, so that who sees them gone may start anew with the same data.
    """
    written: list[Path] = []

    def announce(serving: Serving) -> None:
        for file in (data / RUNNING, ready_file):
            if file is not None:
                write_whole(file, msgspec.json.format(msgspec.json.encode(serving), indent=2) + b"\n")
                written.append(file)

    try:
        yield announce
    finally:
        for file in written:
            file.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write ``data`` for its owner alone, so that a reader finds all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    beside.replace(path)


def find_running(data: Path) -> Serving:
    """What serves with the data in ``data``.

    Raises:
        NotFound: nothing does.
        Malformed: its file is damaged.
    """
    path = data / RUNNING
    try:
        serving = msgspec.json.decode(path.read_bytes(), type=Serving)
    except FileNotFoundError:
        raise NotFound(f"nothing serves with the data in {data}") from None
    except msgspec.DecodeError:
        raise Malformed(f"{path} is damaged: remove it") from None
    try:
        os.kill(serving.pid, 0)
    except ProcessLookupError:
        raise NotFound(f"nothing serves with the data in {data}: what did was killed") from None
    except PermissionError:
        pass
    return serving
