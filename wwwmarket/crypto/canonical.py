"""Canonical bytes: one value, one encoding, and no other encoding is accepted.

JSON with sorted ASCII keys, no white space, integers of magnitude below 2^53 and no floats: on this profile msgspec's
sorted encoder and RFC 8785 (JSON Canonicalization Scheme) give the same bytes, which a test holds against ``rfc8785``.
"""

from functools import cache
from typing import Any, Final, TypeVar, cast

import msgspec
from msgspec import Raw

from wwwmarket.domain.errors import Malformed, TooLarge

T = TypeVar("T")

__all__ = ["ENTRY_BYTES_MAX", "MESSAGE_BYTES_MAX", "Raw", "decode", "encode", "not_canonical", "read"]

ENTRY_BYTES_MAX: Final = 65_535
"""An entry bundle gives each entry a 16-bit length (C2SP tlog-tiles, "Log entries")."""

MESSAGE_BYTES_MAX: Final = 262_144
"""No record between nodes comes near this; prompts travel sealed, outside of records."""

_ENCODER: Final = msgspec.json.Encoder(order="sorted", decimal_format="number")


@cache
def _decoder(shape: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(shape)


def encode(value: object) -> bytes:
    """The canonical bytes of a value from ``domain``."""
    return _ENCODER.encode(value)


def decode(data: bytes, shape: type[T], *, bytes_max: int = MESSAGE_BYTES_MAX) -> T:
    """Read ``data`` as ``shape`` (a value's class, or a union of records), strictly.

    Raises:
        TooLarge: more than ``bytes_max`` bytes.
        Malformed: not JSON, not of that shape, or not the canonical bytes of what it says.
    """
    value = read(data, shape, bytes_max=bytes_max)
    if _ENCODER.encode(value) != data:
        raise not_canonical(shape)
    return value


def read(data: bytes, shape: type[T], *, bytes_max: int) -> T:
    """``decode``, for callers that compare the bytes with what they encode anyway.

    Raises:
        TooLarge: more than ``bytes_max`` bytes.
        Malformed: not JSON, or not of that shape.
    """
    if len(data) > bytes_max:
        raise TooLarge(f"{len(data)} bytes where at most {bytes_max} are accepted")
    try:
        value: T = _decoder(cast("Any", shape)).decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"not a valid {_name(shape)}: {error}") from None
    return value


def not_canonical(shape: object) -> Malformed:
    return Malformed(f"not the canonical bytes of a {_name(shape)}: sort the keys and leave out white space")


def _name(shape: object) -> str:
    return getattr(shape, "__name__", None) or "record"
