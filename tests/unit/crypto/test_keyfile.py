"""A key comes back from its file and from its words, and from nothing else."""

import base64
import hmac
import shutil
import subprocess
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from wwwmarket.crypto import keyfile
from wwwmarket.crypto.derivation import SEALING, child, derive_seed
from wwwmarket.crypto.signing import KeyPair
from wwwmarket.domain.errors import Malformed, TooLarge, Unauthorised

SEED = bytes(range(32))
KEY = KeyPair(SEED)
PASSPHRASE = b"correct horse"
WORDS = keyfile.to_words(KEY)
ENCRYPTED = keyfile.encode(KEY, PASSPHRASE)


def test_a_key_comes_back_from_its_file():
    """With its passphrase, or without one where none was asked for."""
    for passphrase in (PASSPHRASE, None):
        pem = keyfile.encode(KEY, passphrase)
        assert keyfile.is_encrypted(pem) is (passphrase is not None)
        assert keyfile.decode(pem, passphrase).seed == SEED


def test_an_encrypted_file_does_not_hold_the_seed():
    """Neither the file nor its decoded body shows the private half."""
    pem = keyfile.encode(KEY, PASSPHRASE)
    assert SEED not in base64.b64decode(b"".join(pem.splitlines()[1:-1]))


@pytest.mark.parametrize("number", range(300))
def test_every_wrong_passphrase_is_unauthorised(number):
    """One in 256 decrypts to something by chance, and is told as wrong all the same."""
    with pytest.raises(Unauthorised) as refusal:
        keyfile.decode(ENCRYPTED, f"wrong {number}".encode())
    assert f"wrong {number}" not in refusal.value.message


@pytest.mark.parametrize("passphrase", [None, b""])
def test_an_encrypted_file_needs_a_passphrase(passphrase):
    """None at all, or an empty one, opens nothing."""
    with pytest.raises(Unauthorised):
        keyfile.decode(ENCRYPTED, passphrase)


def pem_of(private, encryption):
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


@pytest.mark.parametrize(
    ("pem", "passphrase"),
    [
        (b"", None),
        (b"", PASSPHRASE),
        (b"junk", None),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", None),
        (b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n-----END ENCRYPTED PRIVATE KEY-----\n", PASSPHRASE),
        (b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n", PASSPHRASE),
        (b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIH=\n-----END ENCRYPTED PRIVATE KEY-----\n", PASSPHRASE),
        (b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n!!!!\n-----END ENCRYPTED PRIVATE KEY-----\n", PASSPHRASE),
        (ENCRYPTED[:200], PASSPHRASE),
        (ENCRYPTED.replace(b"\n", b"\nAAAA", 2), PASSPHRASE),
        (keyfile.encode(KEY, None), PASSPHRASE),
        (keyfile.encode(KEY, None)[:-40], None),
        (pem_of(x25519.X25519PrivateKey.generate(), NoEncryption()), None),
        (pem_of(ec.generate_private_key(ec.SECP256R1()), BestAvailableEncryption(PASSPHRASE)), PASSPHRASE),
    ],
)
def test_what_is_not_such_a_file_is_malformed(pem, passphrase):
    """Cut, garbled, another kind of key, or not encrypted where a passphrase was given."""
    with pytest.raises(Malformed):
        keyfile.decode(pem, passphrase)


def test_a_huge_file_is_refused_unread():
    """A key file is small."""
    with pytest.raises(TooLarge):
        keyfile.decode(ENCRYPTED + b"\n" * keyfile.PEM_BYTES_MAX, PASSPHRASE)


@pytest.mark.parametrize("length", [0, 7, 1_024])
def test_a_passphrase_out_of_bounds_encrypts_nothing(length):
    """Too short to protect anything, or longer than other tools can read."""
    with pytest.raises(Malformed) as refusal:
        keyfile.encode(KEY, b"p" * length)
    assert refusal.value.param == "passphrase"


@pytest.mark.parametrize("length", [8, 1_023])
def test_a_passphrase_at_its_bounds_works(length):
    """The limits themselves are inside."""
    assert keyfile.decode(keyfile.encode(KEY, b"p" * length), b"p" * length).seed == SEED


@pytest.mark.foreign
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_reads_the_file(tmp_path):
    """Another project's tool opens the file with its passphrase and finds the same public key."""
    (tmp_path / "key.pem").write_bytes(ENCRYPTED)
    command = [
        "openssl",
        "pkey",
        "-in",
        "key.pem",
        "-passin",
        f"pass:{PASSPHRASE.decode()}",
        "-pubout",
        "-outform",
        "DER",
    ]
    public = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout
    assert public[-32:].hex() == KEY.account


def test_words_are_read_as_people_write_them():
    """Capitals, line breaks and more spaces change nothing."""
    assert keyfile.from_words("  " + WORDS.upper().replace(" ", "\n ") + "\n").seed == SEED


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "these are 0"),
        (WORDS.rsplit(" ", 1)[0], "these are 23"),
        (WORDS + " abandon", "these are 25"),
        (" ".join(WORDS.split()[:12]), "these are 12"),
        (WORDS.replace(WORDS.split()[6], "secretish", 1), "word 7 "),
        (" ".join([*WORDS.split()[:-1], "zoo"]), "checksum"),
        (" ".join([WORDS.split()[1], WORDS.split()[0], *WORDS.split()[2:]]), "checksum"),
    ],
)
def test_a_typo_in_the_words_is_refused_and_placed(text, says):
    """The message says what to look for, and repeats none of the words."""
    with pytest.raises(Malformed, match=says) as refusal:
        keyfile.from_words(text)
    assert "secretish" not in refusal.value.message
    assert WORDS.split()[0] not in refusal.value.message


def test_derived_seeds_are_hkdf_of_the_key():
    """RFC 5869 written out by hand: extract under a salt of zeros, expand by one block."""
    extracted = hmac.digest(bytes(32), SEED, "sha256")
    assert derive_seed(KEY, SEALING) == hmac.new(extracted, b"wwwmarket/v1/sealing\x01", sha256).digest()


def test_one_backup_restores_every_derived_key():
    """The same words give the same children; another label or another key gives others."""
    restored = keyfile.from_words(WORDS)
    assert child(restored, "account/a").account == child(KEY, "account/a").account
    others = {KEY.account, child(KEY, "account/b").account, child(KeyPair(bytes(32)), "account/a").account}
    assert child(KEY, "account/a").account not in others


@pytest.mark.parametrize("label", ["", "A", "a b", "a\n", "é", "/a", "a" * 65])
def test_a_label_that_is_no_label_derives_nothing(label):
    """Labels are typed by people; two that look alike must not be two accounts."""
    with pytest.raises(Malformed):
        derive_seed(KEY, label)
