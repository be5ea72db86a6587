"""Tagged digests: SHA-256 over the kind and version, a zero byte, then canonical bytes.

The tag makes digests of different kinds different even where their bytes are not; digests are never made by joining
fields.
"""

from functools import cache
from hashlib import sha256

from wwwmarket.crypto import canonical
from wwwmarket.domain.identity import Digest
from wwwmarket.domain.shape import Record


def tagged(kind: str, data: bytes) -> Digest:
    """Digest of ``data`` as a ``kind``, such as ``request/v1`` for the exact bytes of a request."""
    return Digest(sha256(_tag(kind) + data).hexdigest())


@cache
def _tag(kind: str) -> bytes:
    """Kinds are few: those of this program."""
    return b"wwwmarket/" + kind.encode("ascii") + b"\x00"


@cache
def _kind(record: type[Record]) -> str:
    return str(record.__struct_config__.tag)


def kind_of(record: type[Record] | Record) -> str:
    """The record's kind and version, such as ``ask/v1``."""
    return _kind(record if isinstance(record, type) else type(record))


def digest(record: Record) -> Digest:
    """Digest of a record's canonical bytes under its own kind."""
    return tagged(kind_of(record), canonical.encode(record))


def request_digest(salt: bytes, request: bytes) -> Digest:
    """Digest of the exact request bytes under a 32-byte salt, so that a short prompt cannot be guessed from it."""
    assert len(salt) == 32, "a salt is 32 bytes"
    return tagged("request/v1", salt + request)


def response_digest(response: bytes) -> Digest:
    """Digest of the exact response bytes, all chunks joined."""
    return tagged("response/v1", response)


class ResponseHasher:
    """``response_digest`` of an answer that arrives in pieces."""

    def __init__(self) -> None:
        self._hash = sha256(b"wwwmarket/response/v1\x00")

    def update(self, piece: bytes) -> None:
        self._hash.update(piece)

    def digest(self) -> Digest:
        """Digest of all pieces so far, joined."""
        return Digest(self._hash.hexdigest())
