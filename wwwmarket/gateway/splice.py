"""What a request cost, put into the engine's answer without touching anything else in it."""

import re
from typing import Final

import msgspec
from msgspec import Raw, Struct

from wwwmarket.domain.identity import AccountId, EntryId
from wwwmarket.domain.quantity import MicroCredits
from wwwmarket.gateway.amounts import credits_text
from wwwmarket.node.service import Delivered

DONE: Final = b"data: [DONE]\n\n"

_EVENT_END: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_OBJECT: Final = msgspec.json.Decoder(dict[str, Raw])
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Sale(Struct, frozen=True):
    """The ``wwwmarket`` object of an answer."""

    award: EntryId
    receipt: str
    provider: AccountId
    cost_micro: MicroCredits


def receipt_path(award: EntryId) -> str:
    return f"/v1/receipts/{award}"


def sale_of(delivered: Delivered) -> Sale:
    return Sale(delivered.award, receipt_path(delivered.award), delivered.provider, delivered.cost_micro)


def splice(answer: bytes, delivered: Delivered) -> bytes:
    """A JSON object with ``usage.cost`` (credits) and ``wwwmarket`` added; the bytes of all other values stay.

    What a provider may itself have written under these two names is replaced. Anything but an object stays as it is.
    """
    try:
        fields = _OBJECT.decode(answer)
        if "usage" in fields and bytes(fields["usage"]).startswith(b"{"):
            usage = _OBJECT.decode(fields["usage"])
            usage["cost"] = Raw(credits_text(delivered.cost_micro).encode("ascii"))
            fields["usage"] = Raw(msgspec.json.encode(usage))
    except _UNREADABLE:
        return answer
    fields["wwwmarket"] = Raw(msgspec.json.encode(sale_of(delivered)))
    return msgspec.json.encode(fields)


def as_json(answer: bytes) -> Raw:
    """An answer as a value inside of another JSON document: itself where it is JSON, else as a string."""
    try:
        msgspec.json.decode(answer)
    except _UNREADABLE:
        return Raw(msgspec.json.encode(answer.decode(errors="replace")))
    return Raw(answer)


class StreamSplicer:
    """Passes a stream's pieces on, but keeps its usage event and its ``[DONE]`` back until the cost is known.

    Engines escape quotes inside of text, so ``"usage"`` as bytes is always a key: two searches decide for nearly all
    pieces that they pass as they are.
    """

    __slots__ = ("_usage",)

    def __init__(self) -> None:
        self._usage: bytes | None = None

    def passed(self, piece: bytes) -> bytes:
        """The part of a piece (whole server-sent events) that is for the client now: often all, sometimes nothing."""
        if b'"usage"' not in piece and b"[DONE]" not in piece:
            return piece
        return b"".join(event for event in _events(piece) if self._passes(event))

    def ending(self, delivered: Delivered, *, include_usage: bool) -> bytes:
        """The last events: usage with its cost if the client asked for it, then ``[DONE]``."""
        if not include_usage or self._usage is None:
            return DONE
        return b"data: " + splice(self._usage, delivered) + b"\n\n" + DONE

    def _passes(self, event: bytes) -> bool:
        payload = _payload(event)
        if payload == b"[DONE]":
            return False
        if _is_usage(payload):
            self._usage = payload
            return False
        return True


def _events(piece: bytes) -> list[bytes]:
    """The events of a piece, each with the blank line that ends it."""
    events, start = [], 0
    for end in _EVENT_END.finditer(piece):
        events.append(piece[start : end.end()])
        start = end.end()
    if start < len(piece):
        events.append(piece[start:])
    return events


def _payload(event: bytes) -> bytes:
    """The data of an event (WHATWG HTML, section 9.2.6)."""
    lines = (line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:"))
    return b"\n".join(lines).strip()


def _is_usage(payload: bytes) -> bool:
    try:
        fields = _OBJECT.decode(payload)
        choices = fields.get("choices")
        return (
            choices is not None
            and msgspec.json.decode(choices) == []
            and bytes(fields.get("usage", Raw(b""))).startswith(b"{")
        )
    except _UNREADABLE:
        return False
