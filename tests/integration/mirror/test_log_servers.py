"""Several servers of one log: whoever is dead, cut off or behind is passed over."""

import asyncio

import pytest

from wwwmarket.adapters.log_http import AnyFiles, find_prefixes
from wwwmarket.domain.errors import NotFound, TooLarge, Unavailable


class Server:
    """Implements ``ports.log_files.LogFiles``: gives, raises, or never answers."""

    def __init__(self, answer: bytes | Exception | None) -> None:
        self.answer = answer
        self.asked = 0

    async def read(self, path: str, *, bytes_max: int) -> bytes:
        self.asked += 1
        assert (path, bytes_max) == ("checkpoint", 9)
        if self.answer is None:
            await asyncio.Event().wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


GONE, NONE = Unavailable("gone", retry_after_ms=1), NotFound("none")


async def read(*answers: bytes | Exception | None) -> bytes:
    servers = [Server(answer) for answer in answers]
    return await AnyFiles(servers, switch_after_s=0.05).read("checkpoint", bytes_max=9)


@pytest.mark.parametrize("first", [GONE, NONE, None], ids=["dead", "behind", "cut off"])
async def test_the_next_server_is_asked(first: Exception | None) -> None:
    """Whatever keeps the first one from answering."""
    assert await read(first, b"note") == b"note"


async def test_the_one_that_answered_is_asked_first_from_then_on() -> None:
    """A reader does not wait for a dead server again and again."""
    dead, alive = Server(None), Server(b"note")
    files = AnyFiles([dead, alive], switch_after_s=0.05)
    for _ in range(3):
        assert await files.read("checkpoint", bytes_max=9) == b"note"
    assert (dead.asked, alive.asked) == (1, 3)


async def test_what_none_of_them_has_is_not_there_only_if_all_could_say() -> None:
    """One that cannot be asked might have it."""
    with pytest.raises(NotFound):
        await read(NONE, NONE)
    for answers in ((GONE, NONE), (NONE, GONE), (None, NONE)):
        with pytest.raises(Unavailable):
            await read(*answers)


async def test_a_file_that_is_too_large_is_nobody_elses_to_serve() -> None:
    """A fault is told at once, and not looked for elsewhere."""
    with pytest.raises(TooLarge):
        await read(TooLarge("long"), b"note")


async def test_a_server_that_is_away_is_taken_for_a_node_of_a_known_log() -> None:
    """With the key pinned a mirror starts although nobody answers yet; without it, it does not."""
    nobody = "http://127.0.0.1:1"
    assert await find_prefixes(f"{nobody}/v1,{nobody}", "the key") == ((f"{nobody}/ledger",) * 2, "the key")
    with pytest.raises(Unavailable):
        await find_prefixes(nobody)
