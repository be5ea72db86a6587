"""What happens to a member, and what it wants done."""

from typing import TypeAlias

from wwwmarket.domain.identity import NodeId
from wwwmarket.domain.quantity import Count, Millis
from wwwmarket.domain.records import NodeAddress
from wwwmarket.domain.shape import Value
from wwwmarket.overlay.records import Announcement, Message
from wwwmarket.overlay.register import Profile


class Started(Value):
    """The transport serves now: join."""

    at_ms: Millis


class Described(Value):
    """The node's own profile has changed."""

    at_ms: Millis
    profile: Profile


class Ticked(Value):
    """Every ``tick_ms`` or so, with 32 fresh bytes of chance."""

    at_ms: Millis
    chance: bytes


class MessageArrived(Value):
    """From a peer that the transport has authenticated; as a request or as the answer to one."""

    at_ms: Millis
    peer: NodeId
    message: Message
    size_bytes: Count


class RoundTripMeasured(Value):
    """By the transport, of any peer."""

    at_ms: Millis
    peer: NodeId
    round_trip_ms: Millis


class PeerUnreachable(Value):
    """The transport could not deliver to it, or had no answer in time."""

    at_ms: Millis
    peer: NodeId


class LeaveRequested(Value):
    at_ms: Millis


Event: TypeAlias = Started | Described | Ticked | MessageArrived | RoundTripMeasured | PeerUnreachable | LeaveRequested


class Send(Value):
    """As a request. An address without sockets is of a peer that is connected already."""

    to: NodeAddress
    message: Message


class Reply(Value):
    """As the answer to the request that has just arrived; at most one a step."""

    to: NodeId
    message: Message


class ViewChanged(Value):
    added: tuple[Announcement, ...]
    removed: tuple[NodeId, ...]


class Left(Value):
    """The farewells are among the effects before this one; nothing more will come."""


Effect: TypeAlias = Send | Reply | ViewChanged | Left
