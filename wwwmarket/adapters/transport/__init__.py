"""The transport port over QUIC (`iroh`): a node's Ed25519 key is its TLS identity and its address.

One connection per pair of nodes. Its first stream, opened by the dialler, is the *control stream*: requests and
answers of both sides, matched by number, and the pings that notice a dead peer. Every stream of the port is one more.
"""

from wwwmarket.adapters.transport.endpoint import IrohTransport
from wwwmarket.adapters.transport.limits import TransportLimits

__all__ = ["IrohTransport", "TransportLimits"]
