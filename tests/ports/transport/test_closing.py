"""What a transport that was closed leaves to the next one in the same process: its address."""

from wwwmarket.adapters.transport import IrohTransport
from wwwmarket.crypto.signing import KeyPair
from wwwmarket.ports.transport import Stream

NEAR, FAR = KeyPair(b"\x01" * 32), KeyPair(b"\x02" * 32)


async def echo(_peer: str, message: bytes) -> bytes:
    return message


async def ignore(_stream: Stream, _opening: bytes) -> None:
    """Streams are not used here."""


async def test_the_port_of_a_closed_transport_is_free_at_once() -> None:
    """Also when it had connections, and while the closed transport is still referred to: a node begins anew there."""
    far = await IrohTransport.bind(FAR)
    far.serve(echo, ignore)
    near = await IrohTransport.bind(NEAR)
    (address,) = near.address().sockets
    assert await near.request(far.address(), b"hi", timeout_ms=5_000) == b"hi"
    await near.close()
    again = await IrohTransport.bind(NEAR, address)
    assert again.address().sockets == (address,)
    assert await again.request(far.address(), b"hi", timeout_ms=5_000) == b"hi"
    await again.close()
    await far.close()
