"""Clients of a mirror that hold what they do not use: each is cut off within its limit, and the mirror goes on."""

import asyncio

import pytest

from tests.integration.mirror.conftest import Site, open_site
from tests.unit.mirror.world import honest
from wwwmarket.gateway.config import GatewayConfig

LIMITS = GatewayConfig(
    head_timeout_s=0.1, body_timeout_s=0.1, connections_max=8, connections_per_address_max=4, shutdown_timeout_s=1
)


@pytest.fixture
async def site(url: str):
    async with open_site(url, honest(), limits=LIMITS) as site:
        yield site


async def connected(site: Site) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = site.door.removeprefix("http://").partition(":")
    return await asyncio.open_connection(host, int(port))


async def test_a_client_that_dribbles_its_head_is_cut_off(site: Site) -> None:
    """However often it sends another byte."""
    reader, writer = await connected(site)
    writer.write(b"POST /add-checkpoint HTTP/1.1\r\nhost: mirror\r\nx: ")

    async def dribble() -> None:
        while True:
            writer.write(b"y")
            await asyncio.sleep(0.02)

    dribbling = asyncio.create_task(dribble())
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await asyncio.wait_for(reader.readexactly(1), 5)
    dribbling.cancel()
    writer.close()
    assert (await site.ask()).status_code == 200


async def test_a_client_that_dribbles_its_body_is_timed_out(site: Site) -> None:
    """408, and nothing is cosigned."""
    reader, writer = await connected(site)
    writer.write(b"POST /add-checkpoint HTTP/1.1\r\nhost: mirror\r\ncontent-length: 999\r\n\r\nold 0\n")
    assert (await asyncio.wait_for(reader.readline(), 5)).split()[1] == b"408"
    writer.close()
    assert (await site.ask()).status_code == 200


async def test_one_address_holds_a_bounded_part_of_the_sockets(site: Site) -> None:
    """The fifth connection of one address is dropped, and when one closes, there is room again."""
    held = [await connected(site) for _ in range(LIMITS.connections_per_address_max)]
    await asyncio.sleep(0)
    reader, writer = await connected(site)
    assert await dropped(reader)
    writer.close()
    for _, each in held:
        each.close()
        await each.wait_closed()
    assert (await site.ask()).status_code == 200


async def dropped(reader: asyncio.StreamReader) -> bool:
    try:
        return await asyncio.wait_for(reader.read(1), 5) == b""
    except ConnectionResetError:
        return True
