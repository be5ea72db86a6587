"""Sealed prompts and answers: only the gateway that asks and the provider that won can read them.

One execution has one channel: NaCl's crypto_box (X25519, XSalsa20-Poly1305; https://nacl.cr.yp.to/box.html) between a
fresh key of the gateway and the offer's sealing key. Frames are numbered in the nonce, so none can be dropped,
repeated, reordered or turned round, and the last one says that it is the last, so none can be cut off.
"""

from typing import Final, Literal, NoReturn

from nacl.exceptions import CryptoError
from nacl.public import Box, PrivateKey, PublicKey

from wwwmarket.domain.errors import Malformed
from wwwmarket.domain.identity import SealingKey

_MORE: Final = b"\x00"
_LAST: Final = b"\x01"
OVERHEAD_BYTES: Final = 16 + 1
"""What sealing adds to a frame: the authenticator and the mark of the last frame."""


class SealingPair:
    """An X25519 key pair (RFC 7748) from a 32-byte seed."""

    __slots__ = ("_private", "public")

    def __init__(self, seed: bytes) -> None:
        assert len(seed) == PrivateKey.SEED_SIZE
        self._private = PrivateKey.from_seed(seed)
        self.public: Final = SealingKey(bytes(self._private.public_key).hex())

    def __repr__(self) -> str:
        return f"SealingPair({self.public})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a sealing key is neither pickled nor copied")

    def channel(self, peer: SealingKey, side: Literal["gateway", "provider"]) -> "Channel":
        """Raises Malformed when ``peer`` is not a usable key (a point of small order)."""
        try:
            return Channel(Box(self._private, PublicKey(bytes.fromhex(peer))), side)
        except CryptoError:
            raise Malformed("the sealing key is not a usable X25519 public key", param="sealing_key") from None


class Channel:
    """One side of a sealed conversation."""

    def __init__(self, box: Box, side: Literal["gateway", "provider"]) -> None:
        self._box = box
        self._out, self._in = (b"\x01", b"\x02") if side == "gateway" else (b"\x02", b"\x01")
        self._sent = 0
        self._received = 0
        self._ended = False

    def seal(self, frame: bytes, *, last: bool = False) -> bytes:
        sealed = self._box.encrypt(frame + (_LAST if last else _MORE), _nonce(self._out, self._sent)).ciphertext
        self._sent += 1
        return sealed

    def open(self, sealed: bytes) -> tuple[bytes, bool]:
        """The next frame, and whether it is the last.

        Raises:
            Malformed: not the next frame of this conversation.
        """
        if self._ended:
            raise Malformed("a sealed frame after the last one")
        try:
            frame = self._box.decrypt(sealed, _nonce(self._in, self._received))
        except (CryptoError, ValueError):
            raise Malformed("a sealed frame that is not the next one of this conversation") from None
        if frame[-1:] not in (_MORE, _LAST):
            raise Malformed("a sealed frame without its mark")
        self._received += 1
        self._ended = frame[-1:] == _LAST
        return frame[:-1], self._ended


def _nonce(direction: bytes, number: int) -> bytes:
    return direction + number.to_bytes(Box.NONCE_SIZE - 1, "big")
