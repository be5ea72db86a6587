"""What nodes tell each other about themselves and about being alive.

The transport proves who speaks; an announcement proves of whom it speaks, whoever hands it on. All else is answered or
forgotten, and believed of nobody but its sender.
"""

from typing import Annotated, Final, TypeAlias, cast

from msgspec import Meta

from wwwmarket.crypto import canonical
from wwwmarket.domain.model import ModelName
from wwwmarket.domain.quantity import Millis
from wwwmarket.domain.records import NodeAddress, Signed
from wwwmarket.domain.shape import Record, Value

ANNOUNCEMENTS_MAX: Final = 8
"""In one message. With the bounds below a message stays under 40 KiB; with usual announcements it is about 4 KiB."""

Nonce: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
"""64 unpredictable bits: a ping cannot be answered before it arrives, so nobody can seem nearer than it is."""
_Small: TypeAlias = Annotated[int, Meta(ge=0, le=65_535)]


class LoadDigest(Value):
    """How busy a node said it was. Old by the time it is read: it says whom to ask, never whom to choose."""

    running: _Small = 0
    waiting: _Small = 0
    sequences: _Small = 0
    """How many it can run at once."""


class Announcement(Record, tag="announcement/v1"):
    """A node on itself. ``issued_ms`` is its clock and its sequence number in one: the later one is in force.

    ``leaving`` is a farewell: the last word until a later one.
    """

    address: NodeAddress
    serves: Annotated[tuple[ModelName, ...], Meta(max_length=16)]
    wants: Annotated[tuple[ModelName, ...], Meta(max_length=8)]
    load: LoadDigest
    issued_ms: Millis
    leaving: bool = False


Announcements: TypeAlias = Annotated[tuple[Signed[Announcement], ...], Meta(max_length=ANNOUNCEMENTS_MAX)]


class Ping(Record, tag="ping/v1"):
    """Are you there? ``doubted_ms`` names the announcement whose author somebody could not reach."""

    nonce: Nonce
    doubted_ms: Millis | None = None


class Pong(Record, tag="pong/v1"):
    """I am; and where a ping named a doubt, here is what I say now."""

    nonce: Nonce
    refutation: Signed[Announcement] | None = None


class PingRequest(Record, tag="ping-request/v1"):
    """Ping this one for me; if it answers, hand me its own word as a rumour."""

    target: Signed[Announcement]


class Shuffle(Record, tag="shuffle/v1"):
    """Some of whom I know, myself first. With nobody but myself it is how a node joins."""

    announcements: Announcements


class ShuffleAnswer(Record, tag="shuffle-answer/v1"):
    announcements: Announcements


class Rumour(Record, tag="rumour/v1"):
    """Told unasked: a farewell, or a refutation that a helper hands on."""

    announcements: Announcements


Message: TypeAlias = Ping | Pong | PingRequest | Shuffle | ShuffleAnswer | Rumour


def read_message(data: bytes) -> Message:
    """Raises TooLarge or Malformed, as ``crypto.canonical.decode``."""
    return canonical.decode(data, cast("type[Message]", Message))
