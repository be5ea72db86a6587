"""Who said it, exactly what, and nothing about the secret that proves it."""

import copy
import pickle

import msgspec
import pytest

from wwwmarket.crypto import canonical
from wwwmarket.crypto.sealing import SealingPair
from wwwmarket.crypto.signing import KeyPair, entry_id, open_entry, sign, sign_entry, verified_own, verify, verify_bytes
from wwwmarket.domain.errors import Malformed, TooLarge, Unauthorised
from wwwmarket.domain.identity import NO_ENTRY
from wwwmarket.domain.records import Transfer, Withdrawal

SEED = bytes(range(32))
KEY = KeyPair(SEED)
OTHER = KeyPair(b"\x07" * 32)
TRANSFER = Transfer(to=OTHER.account, amount_micro=5)
ENTRY = sign_entry(KEY, seq=3, prev="b" * 64, body=TRANSFER)


def test_a_signed_record_names_its_signer():
    """Verifying gives the record and who said it."""
    verified = verify(sign(KEY, TRANSFER).signed)
    assert (verified.body, verified.by) == (TRANSFER, KEY.account)


@pytest.mark.parametrize(
    "change",
    [
        {"body": Transfer(to=OTHER.account, amount_micro=6)},
        {"body": Withdrawal(offer=OTHER.account)},
        {"signer": OTHER.account},
        {"signer": "0" * 64},
        {"signature": "0" * 128},
        {"signature": sign(OTHER, TRANSFER).signed.signature},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_signed_record_is_unauthorised(change):
    """Body, signer and signature belong together."""
    signed = sign(KEY, TRANSFER).signed
    with pytest.raises(Unauthorised):
        verify(msgspec.structs.replace(signed, **change))


@pytest.mark.parametrize("length", [0, 63, 65])
def test_a_signature_of_another_length_is_invalid(length):
    """64 bytes, or nothing: a byte moved between signature and message must not verify."""
    message = b"message"
    signature = KEY.sign_bytes(message)
    assert verify_bytes(KEY.account, message, signature)
    assert not verify_bytes(KEY.account, message, (signature + b"m")[:length])


def test_an_entry_opens_with_its_name_and_its_leaf():
    """The leaf's bytes, the entry and its name come back as its author made them."""
    leaf = canonical.encode(ENTRY)
    opened = open_entry(leaf)
    assert (opened.id, opened.leaf, opened.entry) == (entry_id(ENTRY), leaf, ENTRY)
    assert verified_own(ENTRY) == opened


@pytest.mark.parametrize(
    "change",
    [
        {"account": OTHER.account},
        {"seq": 4},
        {"prev": NO_ENTRY},
        {"body": canonical.Raw(canonical.encode(Transfer(to=OTHER.account, amount_micro=6)))},
        {"signature": "0" * 128},
        {"signature": sign_entry(OTHER, seq=3, prev="b" * 64, body=TRANSFER).signature},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_entry_changed_in_any_field_is_unauthorised(change):
    """Author, place, predecessor, body and signature are all covered."""
    with pytest.raises(Unauthorised):
        open_entry(canonical.encode(msgspec.structs.replace(ENTRY, **change)))


def test_the_signature_of_a_record_is_no_signature_of_an_entry():
    """A signed transfer outside an entry cannot be made into one: the tags differ."""
    signature = sign(KEY, TRANSFER).signed.signature
    with pytest.raises(Unauthorised):
        open_entry(canonical.encode(msgspec.structs.replace(ENTRY, signature=signature)))


def test_the_name_of_an_entry_does_not_depend_on_its_signature():
    """An entry is named by what it says."""
    assert entry_id(ENTRY) == entry_id(msgspec.structs.replace(ENTRY, signature="0" * 128))


def test_an_entry_beyond_the_bundle_limit_is_too_large():
    """65,535 bytes fit in a tile's 16-bit length; one more is refused unread."""
    with pytest.raises(TooLarge):
        open_entry(b" " * 65_536)
    with pytest.raises(Malformed):
        open_entry(b" " * 65_535)


@pytest.mark.parametrize("secret", [KEY, SealingPair(SEED)], ids=["signing", "sealing"])
def test_a_key_never_shows_its_seed(secret):
    """Neither text nor pickle nor copy of a key pair carries the private half."""
    shown = f"{secret!r} {secret!s} {secret} {[secret]} {secret:}"
    assert SEED.hex() not in shown
    assert repr(SEED)[2:-1] not in shown
    assert not hasattr(secret, "__dict__")
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            leak(secret)
    with pytest.raises((TypeError, msgspec.ValidationError)):
        canonical.encode({"key": secret})


def test_a_seed_of_another_length_is_our_own_bug():
    """Seeds come from our entropy and our key files, never from a stranger."""
    with pytest.raises(AssertionError):
        KeyPair(b"short")
    with pytest.raises(AssertionError):
        SealingPair(b"short")
