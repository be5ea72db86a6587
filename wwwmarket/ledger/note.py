"""Signed notes (C2SP signed-note): a text, a blank line, and one line for each signature.

    <text, which ends in a newline>
    <blank line>
    — <key name> base64(key id || signature)

Two kinds of signature are spoken here: Ed25519 over the text (type 0x01), by the author; and the timestamped
cosignature of C2SP tlog-cosignature (type 0x04), by whoever has verified a checkpoint. All others are ignored, as the
specification demands. The text says nothing until a known key has signed it.
"""

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from enum import IntEnum
from hashlib import sha256
from typing import Final

from wwwmarket.crypto.signing import KeyPair, verify_bytes
from wwwmarket.domain.errors import Malformed, TooLarge, Unauthorised
from wwwmarket.domain.identity import AccountId
from wwwmarket.domain.shape import Value

NOTE_BYTES_MAX: Final = 262_144
"""The 16 signatures of 5 kB that the specification bids to accept need half of this."""

SIGNATURES_MAX: Final = 100
"""As in Go's ``sumdb/note``, so that a note cannot cost more to verify here than there."""

TIMESTAMP_S_MAX: Final = 2**63 - 1

_DASH: Final = "\N{EM DASH} "
_KEY_ID_BYTES: Final = 4
_PUBLIC_KEY_BYTES: Final = 32
_TIMESTAMP_BYTES: Final = 8
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")
_KEY_TEXT: Final = re.compile(r"([^+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/=]+)", re.ASCII)


class SignatureType(IntEnum):
    """The signature type identifier byte of a key."""

    ED25519 = 0x01
    COSIGNATURE = 0x04


class VerifierKey(Value):
    """A public key with its name and its one use."""

    name: str
    account: AccountId
    type: SignatureType = SignatureType.ED25519

    @property
    def id(self) -> bytes:
        """The 4 bytes by which, with the name, a signature finds its key."""
        return sha256(self.name.encode() + b"\n" + self._typed).digest()[:_KEY_ID_BYTES]

    @property
    def text(self) -> str:
        """The key as people exchange it: ``<name>+<id in hex>+<base64 of type and key>``."""
        return f"{self.name}+{self.id.hex()}+{b64encode(self._typed).decode()}"

    @property
    def _typed(self) -> bytes:
        return bytes([self.type]) + bytes.fromhex(self.account)


class NoteSignature(Value):
    """One signature line: whose it claims to be, and its bytes after the key id."""

    name: str
    key_id: bytes
    signature: bytes

    @property
    def line(self) -> str:
        return f"{_DASH}{self.name} {b64encode(self.key_id + self.signature).decode()}\n"


class Note(Value):
    """A note as it was read; nobody has said its text yet."""

    text: str
    signatures: tuple[NoteSignature, ...]


class VerifiedSignature(Value):
    """A signature that ``by`` did make; a cosignature says when, in seconds since 1970."""

    by: VerifierKey
    timestamp_s: int | None


class VerifiedNote(Value):
    """A text, and those of the known keys that did sign it. Made by ``open_note`` alone."""

    text: str
    signatures: tuple[VerifiedSignature, ...]


class Signer:
    """A key pair under a name, for signatures over the text itself."""

    def __init__(self, name: str, key: KeyPair) -> None:
        assert _is_name(name), "a key name has no space and no plus"
        self.verifier: Final = VerifierKey(name=name, account=key.account)
        self._key = key

    def sign(self, text: str) -> NoteSignature:
        return _line(self.verifier, self._key.sign_bytes(text.encode()))


class Cosigner:
    """A key pair under a name, for timestamped cosignatures. The key is used for nothing else."""

    def __init__(self, name: str, key: KeyPair) -> None:
        assert _is_name(name), "a key name has no space and no plus"
        self.verifier: Final = VerifierKey(name=name, account=key.account, type=SignatureType.COSIGNATURE)
        self._key = key

    def sign(self, text: str, *, timestamp_s: int) -> NoteSignature:
        """Say that at ``timestamp_s`` the checkpoint ``text`` was the largest consistent one seen of its log."""
        assert 0 <= timestamp_s <= TIMESTAMP_S_MAX
        signature = self._key.sign_bytes(_cosigned(text, timestamp_s))
        return _line(self.verifier, timestamp_s.to_bytes(_TIMESTAMP_BYTES, "big") + signature)


def parse_verifier_key(text: str) -> VerifierKey:
    """Read a key of a type that is spoken here.

    Raises:
        Malformed: not a verifier key, or one whose id is not its own.
    """
    match = _KEY_TEXT.fullmatch(text)
    typed = _base64(match[3]) if match else b""
    if match is None or not _is_name(match[1]) or len(typed) != 1 + _PUBLIC_KEY_BYTES:
        raise Malformed("not a verifier key, which is <name>+<id>+<base64 of a type and 32 bytes>")
    if typed[0] not in set(SignatureType):
        raise Malformed(f"signatures of type {typed[0]} are not spoken here")
    key = VerifierKey(name=match[1], account=AccountId(typed[1:].hex()), type=SignatureType(typed[0]))
    if key.text != text:
        raise Malformed(f"the id of this verifier key is {key.id.hex()}")
    return key


def encode_note(text: str, signatures: Sequence[NoteSignature]) -> bytes:
    """The note's bytes.

    Raises:
        TooLarge: more than 100 signatures.
    """
    assert _is_text(text), "a note's text ends in a newline and holds no other control character"
    assert signatures, "a note is signed"
    if len(signatures) > SIGNATURES_MAX:
        raise TooLarge(f"a note has at most {SIGNATURES_MAX} signatures")
    return f"{text}\n{''.join(each.line for each in signatures)}".encode()


def parse_note(data: bytes) -> Note:
    """Read a note without believing it.

    Raises:
        TooLarge: over 262,144 bytes.
        Malformed: not a note, or one of more than 100 signatures.
    """
    if len(data) > NOTE_BYTES_MAX:
        raise TooLarge(f"a note has at most {NOTE_BYTES_MAX} bytes")
    try:
        decoded = data.decode()
    except UnicodeDecodeError:
        raise Malformed("a note is UTF-8") from None
    text, blank, block = decoded.rpartition("\n\n")
    if not blank or not _is_text(f"{text}\n"):
        raise Malformed("a note is a text without control characters, a blank line and signature lines")
    return Note(text=f"{text}\n", signatures=parse_signatures(block))


def parse_signatures(block: str) -> tuple[NoteSignature, ...]:
    """Read one or more signature lines, as a note ends in and as a cosigner answers with.

    Raises:
        Malformed: not 1 to 100 signature lines, each ended by a newline.
    """
    lines = block.split("\n", SIGNATURES_MAX)
    if lines.pop() or not lines:
        raise Malformed(f"not 1 to {SIGNATURES_MAX} signature lines, each ended by a newline")
    return tuple(map(_parse_line, lines))


def open_note(data: bytes, verifiers: Iterable[VerifierKey]) -> VerifiedNote:
    """Read a note that at least one of ``verifiers`` has signed; signatures of other keys are ignored.

    Raises:
        TooLarge, Malformed: not a note (as ``parse_note``).
        Unauthorised: none of these keys signed it, or a signature in the name of one of them is not valid.
    """
    note = parse_note(data)
    known = {(key.name, key.id): key for key in verifiers}
    signatures: dict[VerifiedSignature, None] = {}
    for each in note.signatures:
        key = known.get((each.name, each.key_id))
        if key is not None:
            signatures[_verify(key, note.text, each.signature)] = None
    if not signatures:
        raise Unauthorised("none of the known keys has signed this note")
    return VerifiedNote(text=note.text, signatures=tuple(signatures))


def _verify(key: VerifierKey, text: str, signature: bytes) -> VerifiedSignature:
    timestamp_s, message = None, text.encode()
    if key.type is SignatureType.COSIGNATURE:
        timestamp_s = int.from_bytes(signature[:_TIMESTAMP_BYTES], "big")
        signature, message = signature[_TIMESTAMP_BYTES:], _cosigned(text, timestamp_s)
    if (timestamp_s or 0) > TIMESTAMP_S_MAX or not verify_bytes(key.account, message, signature):
        raise Unauthorised(f"a signature in the name of {key.name} on this note is not valid")
    return VerifiedSignature(by=key, timestamp_s=timestamp_s)


def _cosigned(text: str, timestamp_s: int) -> bytes:
    return f"cosignature/v1\ntime {timestamp_s}\n{text}".encode()


def _line(key: VerifierKey, signature: bytes) -> NoteSignature:
    return NoteSignature(name=key.name, key_id=key.id, signature=signature)


def _parse_line(line: str) -> NoteSignature:
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    signature = _base64(encoded)
    if not line.startswith(_DASH) or not _is_name(name) or len(signature) <= _KEY_ID_BYTES:
        raise Malformed("not a signature line, which is an em dash, a key name and base64")
    return NoteSignature(name=name, key_id=signature[:_KEY_ID_BYTES], signature=signature[_KEY_ID_BYTES:])


def _is_text(text: str) -> bool:
    return text.endswith("\n") and _CONTROL.search(text) is None


def _is_name(name: str) -> bool:
    return name != "" and "+" not in name and not any(map(str.isspace, name)) and _CONTROL.search(name) is None


def _base64(encoded: str) -> bytes:
    """The bytes of standard, padded, canonical base64; none where it is not."""
    try:
        data = b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return data if b64encode(data).decode() == encoded else b""
