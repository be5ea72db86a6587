"""What a stranger can make this node spend."""

from typing import Annotated, Final

from msgspec import Meta

from wwwmarket.domain.shape import Value

_Positive = Annotated[int, Meta(ge=1)]


class TransportLimits(Value):
    """Every bound of the transport. The defaults suit one node with a few dozen neighbours."""

    frame_bytes_max: _Positive = 1 << 20
    """One message or stream frame. Sixteen of the largest ledger entries."""
    connections_max: _Positive = 1024
    """Peers connected at once, in both directions. About 100 kB each."""
    handshakes_max: _Positive = 64
    """Strangers let into the handshake at once; half of that and they must prove their address first."""
    requests_per_peer_max: _Positive = 256
    """Requests in flight to one peer, and from one peer."""
    requests_max: _Positive = 4096
    """Requests being answered at once for all peers: keys are free, so a bound per peer is none."""
    streams_per_peer_max: _Positive = 512
    """Open streams to one peer, and from one peer: a gateway may fill all sequences of a large engine."""
    streams_max: _Positive = 4096
    """Streams being served at once for all peers."""
    outbox_bytes_max: _Positive = 1 << 20
    """Bytes waiting on a control stream before senders wait too; a peer that lets them double is not reading."""
    handshake_timeout_ms: _Positive = 5_000
    """From the first packet to the control stream, and from a stream's opening to its first frame."""
    ping_interval_ms: _Positive = 1_000
    """Between pings while a peer owes an answer or a stream is open; each measures the round trip."""
    silent_intervals_max: _Positive = 3
    """Intervals without a byte from a peer that owes one, after which it counts as dead."""
    idle_timeout_ms: _Positive = 300_000
    """A connection that has carried no request and no stream for so long is closed by either side."""


RETIRED_INTERVALS: Final = 2
"""Ping intervals for which the lesser of two connections to a peer stays usable: both sides have seen both by then."""
RESTING_INTERVALS: Final = 8
"""Between pings over a connection where nothing is due: often enough for what NATs forget after half a minute. Pinging
every interval from both sides was two thirds of what an idle node spent.
"""
