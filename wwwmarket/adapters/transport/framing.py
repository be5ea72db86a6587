"""Frames on a QUIC stream: four bytes of length (big-endian), then so many bytes.

Frames of the control stream begin with eight bytes of number and one byte of kind. Pure: bytes in, frames out.
"""

import struct
from enum import IntEnum
from typing import Final

from wwwmarket.domain.errors import Malformed, TooLarge

_LENGTH: Final = struct.Struct(">I")
_CONTROL: Final = struct.Struct(">IQB")
_HEADER: Final = struct.Struct(">QB")


class Kind(IntEnum):
    """What a control frame is. Numbers are chosen by the sender of the request or ping and echoed in the reply."""

    REQUEST = 1
    ANSWER = 2
    FAILED = 3
    PING = 4
    PONG = 5


def frame(payload: bytes) -> bytes:
    return _LENGTH.pack(len(payload)) + payload


def control_frame(number: int, kind: Kind, payload: bytes = b"") -> bytes:
    return _CONTROL.pack(_HEADER.size + len(payload), number, kind) + payload


def open_control_frame(body: bytes) -> tuple[int, Kind, bytes]:
    """Number, kind and payload of a control frame's body.

    Raises:
        Malformed: shorter than its header, or of an unknown kind.
    """
    if len(body) < _HEADER.size:
        raise Malformed("a control frame is at least 9 bytes long")
    number, kind = _HEADER.unpack_from(body)
    try:
        return number, Kind(kind), body[_HEADER.size :]
    except ValueError:
        raise Malformed(f"no control frame is of kind {kind}") from None


CONTROL_HEADER_BYTES: Final = _HEADER.size


class FrameReader:
    """Cuts a stream of bytes into frames. Holds no more than was received: an announced length reserves nothing."""

    def __init__(self, frame_bytes_max: int) -> None:
        self._frame_bytes_max = frame_bytes_max
        self._buffer = bytearray()
        self._start = 0

    def feed(self, chunk: bytes) -> None:
        del self._buffer[: self._start]
        self._start = 0
        self._buffer += chunk

    def next(self) -> bytes | None:
        """The next whole frame, or None until more is fed.

        Raises:
            TooLarge: a length over the limit was announced; nothing after it can be read.
        """
        body = self._start + _LENGTH.size
        if len(self._buffer) < body:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer, self._start)
        if length > self._frame_bytes_max:
            raise TooLarge(f"a frame of {length} bytes was announced; the limit is {self._frame_bytes_max}")
        if len(self._buffer) < body + length:
            return None
        self._start = body + length
        return bytes(self._buffer[body : self._start])

    @property
    def torn(self) -> bool:
        """Whether part of a frame is held: if the stream ends here, it ended inside a frame."""
        return self._start < len(self._buffer)
