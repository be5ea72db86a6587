"""A key at rest: as a file for machines, as words for people. Bytes in, bytes out; nothing here ever shows a secret.

The file is PEM (RFC 7468) of PKCS #8 (RFC 5958, RFC 8410), which OpenSSL reads too, encrypted by PBES2 (RFC 8018:
PBKDF2, AES-256-CBC). The words are BIP-39's 24 words for the 32 bytes of the seed themselves, with its checksum; the
wallet seed that BIP-39 goes on to derive from such words is not used.
"""

from base64 import b64decode
from functools import cache
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from mnemonic import Mnemonic

from wwwmarket.crypto.signing import KeyPair
from wwwmarket.domain.errors import Malformed, TooLarge, Unauthorised

PEM_BYTES_MAX: Final = 4_096
"""An encrypted key takes about 300; more is some other file."""

PASSPHRASE_BYTES_MIN: Final = 8
"""PBKDF2 slows a guess by some milliseconds only: anything shorter is found in hours by whoever has the file."""
PASSPHRASE_BYTES_MAX: Final = 1_023
"""OpenSSL's limit, which ``cryptography`` keeps."""

WORDS: Final = 24
"""256 bits of seed and 8 of checksum, 11 bits a word (BIP-39, "Generating the mnemonic")."""

_ENCRYPTED_BEGIN: Final = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
_ENCRYPTED_END: Final = b"-----END ENCRYPTED PRIVATE KEY-----"


def encode(key: KeyPair, passphrase: bytes | None) -> bytes:
    """The PEM file of ``key``. ``None`` leaves it unencrypted, for a machine whose disk is the protection.

    Raises:
        Malformed: a passphrase of fewer than 8 or more than 1,023 bytes.
    """
    private = Ed25519PrivateKey.from_private_bytes(key.seed)
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, _encryption(passphrase))


def _encryption(passphrase: bytes | None) -> KeySerializationEncryption:
    if passphrase is None:
        return NoEncryption()
    if not PASSPHRASE_BYTES_MIN <= len(passphrase) <= PASSPHRASE_BYTES_MAX:
        raise Malformed(
            f"a passphrase has {PASSPHRASE_BYTES_MIN} to {PASSPHRASE_BYTES_MAX} bytes; this one has {len(passphrase)}",
            param="passphrase",
        )
    return BestAvailableEncryption(passphrase)


def is_encrypted(pem: bytes) -> bool:
    """Whether ``decode`` needs a passphrase."""
    return _ENCRYPTED_BEGIN in pem


def decode(pem: bytes, passphrase: bytes | None) -> KeyPair:
    """Read what ``encode`` wrote, or any other tool's PKCS #8 Ed25519 key.

    Raises:
        TooLarge: more than 4,096 bytes.
        Unauthorised: encrypted, and the passphrase is missing or wrong (damage inside looks the same).
        Malformed: not such a file, not an Ed25519 key, or a passphrase for a file that is not encrypted.
    """
    if len(pem) > PEM_BYTES_MAX:
        raise TooLarge(f"a key file has at most {PEM_BYTES_MAX} bytes; this one has {len(pem)}")
    encrypted = is_encrypted(pem)
    if encrypted and not passphrase:
        raise Unauthorised("the key file is encrypted: it needs its passphrase", param="passphrase")
    if not encrypted and passphrase is not None:
        raise Malformed("a passphrase was given, but the key file is not encrypted", param="passphrase")
    try:
        private = load_pem_private_key(pem, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # One wrong passphrase in 256 decrypts to something: the error alone does not tell it from a damaged file.
        if encrypted and _is_whole(pem):
            raise Unauthorised("wrong passphrase (or a damaged key file)", param="passphrase") from None
        raise Malformed("not a PEM file of a PKCS #8 private key") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise Malformed("a private key, but not an Ed25519 one")
    return KeyPair(private.private_bytes_raw())


def _is_whole(pem: bytes) -> bool:
    """Whether the armour holds one DER SEQUENCE (X.690) that ends where its length says."""
    armoured = pem.partition(_ENCRYPTED_BEGIN)[2].partition(_ENCRYPTED_END)[0]
    try:
        der = b64decode(b"".join(armoured.split()), validate=True)
    except ValueError:
        return False
    if len(der) < 2 or der[0] != 0x30:
        return False
    length_bytes = der[1] - 0x80 if der[1] > 0x80 else 0
    length = int.from_bytes(der[2 : 2 + length_bytes], "big") if length_bytes else der[1]
    return len(der) == 2 + length_bytes + length


@cache
def _words() -> Mnemonic:
    return Mnemonic("english")


def to_words(key: KeyPair) -> str:
    """The 24 words from which ``from_words`` makes the same key, one space between each."""
    return _words().to_mnemonic(key.seed)


def from_words(text: str) -> KeyPair:
    """The key of 24 words, in any case and with any white space.

    Raises:
        Malformed: not 24 words, a word that is not in the list (named by its place), or a checksum that fails.
    """
    words = text.lower().split()
    if len(words) != WORDS:
        raise Malformed(f"a key is {WORDS} words; these are {len(words)}", param="words")
    known = frozenset(_words().wordlist)
    for place, word in enumerate(words, start=1):
        if word not in known:
            raise Malformed(f"word {place} is not in the word list (BIP-39, English): look for a typo", param="words")
    try:
        return KeyPair(bytes(_words().to_entropy(words)))
    except ValueError:
        raise Malformed("the checksum fails: a word is wrong, or words are out of order", param="words") from None
