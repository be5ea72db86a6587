"""The node's end of every connection: who is let in, who is dialled, and which connection carries what."""

import asyncio
import gc
from collections.abc import Coroutine
from contextlib import suppress
from typing import Final, Self

import iroh

from wwwmarket.adapters.transport import sockets
from wwwmarket.adapters.transport.binding import copy_bytes_at_once
from wwwmarket.adapters.transport.limits import TransportLimits
from wwwmarket.adapters.transport.link import Link
from wwwmarket.adapters.transport.links import Links
from wwwmarket.adapters.transport.reception import Reception
from wwwmarket.adapters.transport.stream import RETRY_MS, IrohStream
from wwwmarket.crypto.signing import KeyPair
from wwwmarket.domain.errors import Conflict, Malformed, TooLarge, Unavailable
from wwwmarket.domain.identity import NodeId
from wwwmarket.domain.records import NodeAddress
from wwwmarket.ports.transport import RequestHandler, StreamHandler

ALPN: Final = b"wwwmarket/1"
_ADDRESSES_MAX: Final = 8
_CLOSE_S: Final = 1.0
"""For telling peers goodbye; QUIC would wait three seconds for one that never answered a dial."""
_DEFAULT: Final = TransportLimits()


class IrohTransport:
    """Implements ``ports.transport.Transport``.

    QUIC opens a second socket on ``[::]`` whatever address is asked for, so a transport bound to loopback refuses every
    caller from elsewhere before the handshake, and dials nobody elsewhere. No lookup service is used, and no relay of
    iroh's but one that is given.
    """

    def __init__(  # noqa: PLR0913 - what it stands on, and how it is known
        self,
        node: NodeId,
        endpoint: iroh.Endpoint,
        *,
        loopback: bool,
        advertised: tuple[str, ...],
        iroh_relay: str | None,
        limits: TransportLimits,
    ) -> None:
        self._node, self._endpoint, self._loopback, self._limits = node, endpoint, loopback, limits
        self._advertised = advertised
        self._iroh_relay = iroh_relay
        self._relayed: tuple[str, ...] = ()
        self._reception = Reception(limits)
        self._links = Links(node, limits.handshake_timeout_ms / 1000, asyncio.get_running_loop().time)
        self._dials: dict[NodeAddress, asyncio.Task[Link]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._handshakes = 0
        self._closed = False

    @classmethod
    async def bind(
        cls,
        key: KeyPair,
        bind_address: str = "127.0.0.1:0",
        *,
        limits: TransportLimits = _DEFAULT,
        advertised: tuple[str, ...] = (),
        iroh_relay: str | None = None,
    ) -> Self:
        """Open the sockets. ``advertised`` (``host:port``) is what others are told, where they see another address than
        this machine does. ``iroh_relay`` is the URL of an iroh relay server, through which this node and others that
        have the same one find direct paths to each other (hole punching), or fall back to it.

        Raises:
            Malformed: ``bind_address`` is not a numeric ``host:port``, or ``iroh_relay`` no URL.
            Conflict: a transport on loopback is given a relay.
            Unavailable: the address cannot be bound.
        """
        try:
            loopback = sockets.is_loopback(bind_address)
        except ValueError:
            raise Malformed(f"{bind_address!r} is not a numeric host:port") from None
        options = iroh.EndpointOptions(
            preset=iroh.preset_minimal(),
            bind_addr=bind_address,
            secret_key=key.seed,
            alpns=[ALPN],
            relay_mode=_relay_mode(iroh_relay, loopback=loopback),
        )
        copy_bytes_at_once()
        try:
            endpoint = await iroh.Endpoint.bind(options)
        except iroh.IrohError as error:
            raise Unavailable(f"cannot bind {bind_address}: {error.message()}", retry_after_ms=RETRY_MS) from error
        assert endpoint.id().to_bytes().hex() == key.account, "the endpoint's name is the node's key"
        return cls(
            NodeId(key.account),
            endpoint,
            loopback=loopback,
            advertised=advertised,
            iroh_relay=iroh_relay,
            limits=limits,
        )

    @property
    def is_on_loopback(self) -> bool:
        """Whether it speaks with this machine only."""
        return self._loopback

    def address(self) -> NodeAddress:
        relayed = self._relayed[: _ADDRESSES_MAX // 2]
        own = (self._advertised or self._own_sockets())[: _ADDRESSES_MAX - len(relayed)]
        return NodeAddress(node=self._node, sockets=own + relayed)

    def name_also(self, relayed: tuple[str, ...]) -> None:
        """Datagrams to these sockets arrive here too."""
        self._relayed += relayed

    def name_no_more(self, relayed: tuple[str, ...]) -> None:
        self._relayed = tuple(text for text in self._relayed if text not in relayed)

    def inward(self) -> tuple[str, int]:
        """Where this machine itself reaches the transport, by IPv4."""
        bound = next(text for text in self._endpoint.bound_sockets() if ":" not in sockets.split(text)[0])
        host, port = sockets.split(bound)
        return ("127.0.0.1" if sockets.is_unspecified(bound) else host), port

    def seen_at(self, peer: NodeId) -> str | None:
        """From which socket a connected peer calls; None where that is not known."""
        link = self._links.best(peer)
        return link.seen_at() if link else None

    def _own_sockets(self) -> tuple[str, ...]:
        bound = self._endpoint.bound_sockets()
        numbered = [text for text in bound if not sockets.is_unspecified(text)]
        seen = [text for text in self._endpoint.addr().direct_addresses() if self._dialable(text)]
        return tuple(dict.fromkeys(numbered + seen))

    def _dialable(self, text: str) -> bool:
        return not self._loopback or sockets.is_loopback(text)

    def serve(self, on_request: RequestHandler, on_stream: StreamHandler) -> None:
        self._reception.serve(on_request, on_stream)
        self._spawn(self._accept())

    async def request(self, peer: NodeAddress, message: bytes, *, timeout_ms: int) -> bytes:
        """Raises TooLarge, besides what the port says, for a message that the peer would have to refuse."""
        self._check_size(message)
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                return await (await self._link(peer)).request(message)
        except TimeoutError:
            raise Unavailable(f"no answer within {timeout_ms} ms", retry_after_ms=RETRY_MS) from None

    async def open_stream(self, peer: NodeAddress, opening: bytes, *, timeout_ms: int) -> IrohStream:
        """Raises TooLarge, besides what the port says, for an opening frame that the peer would have to refuse."""
        self._check_size(opening)
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                return await (await self._link(peer)).open_stream(opening)
        except TimeoutError:
            raise Unavailable(f"no stream within {timeout_ms} ms", retry_after_ms=RETRY_MS) from None

    def round_trip_ms(self, peer: NodeId) -> float | None:
        link = self._links.best(peer)
        return link.round_trip_ms if link else None

    async def close(self) -> None:
        """Stop handlers, drop every connection, and wait until nothing is left running."""
        if self._closed:
            return
        self._closed = True
        self._advertised = self._advertised or self._own_sockets()
        await self._reception.close()
        tasks = [*self._tasks, *self._dials.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._links.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self._endpoint.close()
        # iroh frees its sockets when the last of its objects is dropped, and links and their tasks refer to each other:
        # without this, a node that begins anew in the same process finds its own port taken.
        del self._endpoint
        await asyncio.sleep(0)
        gc.collect()

    def _check_size(self, message: bytes) -> None:
        if len(message) > self._limits.frame_bytes_max:
            raise TooLarge(f"a message of {len(message)} bytes; the limit is {self._limits.frame_bytes_max}")

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Dialling

    async def _link(self, peer: NodeAddress) -> Link:
        """The connection to ``peer``: the one there is, or a new one, dialled once however many wait for it.

        A dial to where the peer once was does not hold up one to where it is now.
        """
        if self._closed:
            raise Unavailable("this transport is closed", retry_after_ms=RETRY_MS)
        link = self._links.best(peer.node)
        if link is not None and not link.closed:
            return link
        dial = self._dials.get(peer)
        if dial is None:
            dial = self._dials[peer] = asyncio.ensure_future(self._dial(peer))
            dial.add_done_callback(lambda done: self._dialled(peer, done))
        await asyncio.wait({dial})
        if dial.cancelled():
            raise Unavailable("this transport is closed", retry_after_ms=RETRY_MS)
        return dial.result()

    def _dialled(self, peer: NodeAddress, dial: asyncio.Task[Link]) -> None:
        del self._dials[peer]
        if not dial.cancelled():
            dial.exception()

    async def _dial(self, peer: NodeAddress) -> Link:
        if len(self._links) + len(self._dials) > self._limits.connections_max:
            raise Unavailable("no further connection may be open", retry_after_ms=RETRY_MS)
        try:
            async with asyncio.timeout(self._limits.handshake_timeout_ms / 1000):
                hints = [text for text in await sockets.resolve(peer.sockets) if self._dialable(text)]
                key = iroh.EndpointId.from_bytes(bytes.fromhex(peer.node))
                address = iroh.EndpointAddr(key, self._iroh_relay, hints)
                connection = await self._endpoint.connect(address, ALPN)
                control = await connection.open_bi()
        except (iroh.IrohError, TimeoutError) as error:
            raise Unavailable(f"node {peer.node} cannot be reached", retry_after_ms=RETRY_MS) from error
        return self._join(connection, control, dialled=True)

    def _join(self, connection: iroh.Connection, control: iroh.BiStream, *, dialled: bool) -> Link:
        peer = NodeId(connection.remote_id().to_bytes().hex())
        link = Link(peer, connection, control, self._limits, self._reception)
        self._links.add(link, dialled=dialled)
        return link

    # Being dialled

    async def _accept(self) -> None:
        while (incoming := await self._endpoint.accept_next()) is not None:
            self._handshakes += 1
            self._spawn(self._admit(incoming))

    async def _admit(self, incoming: iroh.Incoming) -> None:
        try:
            async with asyncio.timeout(self._limits.handshake_timeout_ms / 1000):
                if await self._welcome(incoming):
                    connection = await (await incoming.accept()).connect()
                    self._join(connection, await connection.accept_bi(), dialled=False)
        except (iroh.IrohError, TimeoutError):
            return  # what a stranger fails to finish is nobody's fault here
        finally:
            self._handshakes -= 1

    async def _welcome(self, incoming: iroh.Incoming) -> bool:
        """Whether to go on with the handshake.

        1. A transport on loopback speaks with this machine only.
        2. There is room for one connection, and one handshake, more.
        3. Half the handshakes taken: callers first prove that they receive at their address (RFC 9000, section 8.1.2).
        """
        caller = await incoming.remote_addr()
        if self._loopback and not (isinstance(caller, iroh.IncomingAddr.IP) and sockets.is_loopback(caller.addr)):
            await incoming.ignore()
            return False
        full = len(self._links) + self._handshakes > self._limits.connections_max
        if full or self._handshakes > self._limits.handshakes_max:
            await incoming.refuse()
            return False
        if self._handshakes > self._limits.handshakes_max // 2 and not await incoming.remote_addr_validated():
            with suppress(iroh.IrohError):
                await incoming.retry()
            return False
        return True


def _relay_mode(url: str | None, *, loopback: bool) -> iroh.RelayMode:
    """Raises Malformed, Conflict."""
    if url is None:
        return iroh.RelayMode.disabled()
    if loopback:
        raise Conflict("a node on loopback speaks with this machine only: give --bind 0.0.0.0:0 with --iroh-relay")
    if not url.startswith(("https://", "http://")):
        raise Malformed(f"{url!r} is no address of an iroh relay: write https://relay.example.org")
    try:
        return iroh.RelayMode.custom_from_urls([url])
    except iroh.IrohError as error:
        raise Malformed(f"{url!r} is no address of an iroh relay: {error.message()}") from None
