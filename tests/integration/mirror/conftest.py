"""A mirror behind its real door, over a real database, of a log whose files can be any that a stranger could serve."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.unit.mirror.world import CONFIG, LyingLog, honest
from tests.unit.rules.world import NOW, REGISTRY, key
from wwwmarket.adapters.storage import SqlStore
from wwwmarket.config import MirrorConfig
from wwwmarket.domain.errors import NotFound, TooLarge
from wwwmarket.gateway.config import GatewayConfig
from wwwmarket.gateway.mirror import CONFIG as CONFIG_OF_DOOR
from wwwmarket.gateway.mirror import create_mirror_app
from wwwmarket.gateway.server import Server
from wwwmarket.ledger.checkpoint import open_checkpoint
from wwwmarket.ledger.export import files
from wwwmarket.ledger.note import Cosigner
from wwwmarket.ledger.witness import CosignRequest, encode_request
from wwwmarket.mirror.driver import Mirroring
from wwwmarket.mirror.machine import Mirror

NAME = "mirror.example/a"


class Published:
    """Implements ``ports.log_files.LogFiles`` for a log; ``changed`` are files that it serves instead."""

    def __init__(self, log: LyingLog) -> None:
        self.log = log
        self.changed: dict[str, bytes] = {}
        self.reads: list[str] = []

    async def read(self, path: str, *, bytes_max: int) -> bytes:
        self.reads.append(path)
        content = self.changed.get(path) or self._files().get(path)
        if content is None:
            raise NotFound(f"there is no {path}")
        if len(content) > bytes_max:
            raise TooLarge(f"{path} has more than {bytes_max} bytes")
        return content

    def _files(self) -> dict[str, bytes]:
        checkpoint = open_checkpoint(self.log.note(), self.log.signer.verifier)
        return dict(files(checkpoint, lambda start, end: self.log.leaves[start:end]))


class Stopped:
    """A clock that stands still until it is moved, so that nothing happens but what is asked for."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms
        self._gone_ms = 0.0
        self._moved = asyncio.Condition()

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic_ms(self) -> float:
        return self._gone_ms

    async def sleep_until_ms(self, at_ms: float) -> None:
        async with self._moved:
            await self._moved.wait_for(lambda: self._gone_ms >= at_ms)

    async def move(self, by_ms: float) -> None:
        self._gone_ms += by_ms
        async with self._moved:
            self._moved.notify_all()


class Kept:
    """Implements ``mirror.driver.Signed`` for several lives."""

    def __init__(self) -> None:
        self.size = 0

    def saw(self, size: int) -> None:
        self.size = max(self.size, size)

    def forget(self, size: int) -> None:
        self.size = min(self.size, size)


class Site:
    """One life of a mirror: its door, and the log that it reads."""

    def __init__(
        self, published: Published, mirroring: Mirroring, door: str, evidence: dict[str, object], clock: Stopped
    ) -> None:
        self.published, self.mirroring, self.door, self.evidence = published, mirroring, door, evidence
        self.clock = clock
        self.http = httpx.AsyncClient(base_url=door, trust_env=False)

    @property
    def log(self) -> LyingLog:
        return self.published.log

    async def post(self, body: bytes) -> httpx.Response:
        return await self.http.post("/add-checkpoint", content=body)

    async def ask(self, *, old: int | None = None) -> httpx.Response:
        """For a cosignature on the log as it is."""
        first = self.mirroring.mirror.cosigned_size if old is None else old
        return await self.post(encode_request(self.log.request(first)))

    async def offer(self, old: int, proof: tuple[bytes, ...], note: bytes) -> httpx.Response:
        return await self.post(encode_request(CosignRequest(old=old, proof=proof, note=note)))


@contextlib.asynccontextmanager
async def open_site(
    url: str,
    log: LyingLog,
    *,
    config: MirrorConfig = CONFIG,
    limits: GatewayConfig | None = None,
    signed: Kept | None = None,
) -> AsyncIterator[Site]:
    """Raises a Refusal where what is stored does not follow."""
    limits = limits or replace(CONFIG_OF_DOOR, shutdown_timeout_s=1)
    store = SqlStore.open(url)
    published, evidence = Published(log), {}
    mirror = Mirror(log.signer.verifier, Cosigner(NAME, key(NAME)), REGISTRY, config)
    clock, signed = Stopped(NOW), signed or Kept()
    mirroring = Mirroring(mirror, published, store.ledger, store.records, clock, config, evidence.setdefault, signed)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(store.close)
        await mirroring.start()
        working = asyncio.create_task(mirroring.run())
        stack.push_async_callback(_stop, working)
        server = Server(create_mirror_app(mirroring, config=limits), "127.0.0.1", 0, config=limits)
        port = await server.start()
        stack.push_async_callback(server.stop)
        site = Site(published, mirroring, f"http://127.0.0.1:{port}", evidence, clock)
        stack.push_async_callback(site.http.aclose)
        yield site


async def _stop(working: asyncio.Task[None]) -> None:
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'mirror.db'}"


@pytest.fixture
async def site(url: str) -> AsyncIterator[Site]:
    async with open_site(url, honest()) as site:
        yield site
