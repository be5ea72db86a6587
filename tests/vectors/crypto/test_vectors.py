"""Other people's vectors against our verification rule, keys, derivation, words and canonical bytes."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from nacl.bindings import crypto_scalarmult
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from wwwmarket.crypto import canonical, keyfile
from wwwmarket.crypto.sealing import SealingPair
from wwwmarket.crypto.signing import KeyPair, verify_bytes

HERE = Path(__file__).parent


def read(name):
    return json.loads((HERE / name).read_text(encoding="utf-8"))


def ed25519_edges():
    """Each vector as (key, message, signature, flags, accepted)."""
    file = read("ed25519_edges.json")
    for key, point, scalar, suffix, flags, accepted in file["vectors"]:
        message = f"ed25519vectors {suffix}".strip().encode()
        signature = bytes.fromhex(file["points"][point] + file["scalars"][scalar])
        names = frozenset(flag for place, flag in enumerate(file["flags"]) if flags >> place & 1)
        yield file["points"][key], message, signature, names, bool(accepted)


EDGES = list(ed25519_edges())
DERIVATION = read("derivation.json")


def accepted_by_nacl(key, message, signature):
    try:
        VerifyKey(bytes.fromhex(key)).verify(message, signature)
    except BadSignatureError:
        return False
    return True


def accepted_by_cryptography(key, message, signature):
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def test_every_edge_case_of_ed25519_has_its_recorded_verdict():
    """A library that changes its mind about one of the 914 edge vectors would split the ledger, and fails here."""
    assert len(EDGES) == 914
    for key, message, signature, _, accepted in EDGES:
        assert verify_bytes(key, message, signature) is accepted


def test_the_verification_rule_is_that_of_pynacl():
    """``verify_bytes`` and PyNaCl's own interface agree on every edge vector."""
    for key, message, signature, _, accepted in EDGES:
        assert accepted_by_nacl(key, message, signature) is accepted


def test_no_signature_by_a_key_or_nonce_of_small_order_is_accepted():
    """Small order, non-canonical points, a residue and a re-encoded digest are each enough to be refused."""
    refused_for = {
        "low_order_A",
        "low_order_R",
        "non_canonical_A",
        "non_canonical_R",
        "low_order_residue",
        "reencoded_k",
    }
    seen = Counter(flag for *_, flags, _ in EDGES for flag in flags)
    assert refused_for < set(seen)
    assert all(not (flags & refused_for) for *_, flags, accepted in EDGES if accepted)


def test_a_second_verification_rule_would_split_the_ledger():
    """``cryptography`` gives another verdict on 165 of the 914 vectors, which is why it verifies nothing here."""
    assert sum(accepted_by_cryptography(*edge[:3]) is not edge[4] for edge in EDGES) == 165


@pytest.mark.parametrize("vector", read("rfc8032.json")["vectors"])
def test_keys_and_signatures_are_those_of_rfc_8032(vector):
    """The RFC's seeds give its public keys and its signatures, and those verify."""
    key, message = KeyPair(bytes.fromhex(vector["seed"])), bytes.fromhex(vector["message"])
    assert key.account == vector["public"]
    assert key.sign_bytes(message).hex() == vector["signature"]
    assert verify_bytes(key.account, message, bytes.fromhex(vector["signature"]))


def test_key_agreement_is_that_of_rfc_7748():
    """Both sides of the RFC's example reach its shared secret by the curve that seals prompts."""
    x = {name: bytes.fromhex(value) for name, value in DERIVATION["x25519"].items() if name != "source"}
    assert crypto_scalarmult(x["alice_private"], x["bob_public"]) == x["shared"]
    assert crypto_scalarmult(x["bob_private"], x["alice_public"]) == x["shared"]


def test_a_sealing_key_is_x25519_of_the_hashed_seed():
    """The public half is what another library computes from the first half of the seed's SHA-512 (crypto_box)."""
    seed = bytes(range(32))
    private = X25519PrivateKey.from_private_bytes(hashlib.sha512(seed).digest()[:32])
    assert SealingPair(seed).public == private.public_key().public_bytes_raw().hex()


def test_key_derivation_is_that_of_rfc_5869():
    """Test case 1 of the RFC."""
    h = {name: bytes.fromhex(value) for name, value in DERIVATION["hkdf"].items() if name != "source"}
    assert HKDF(algorithm=SHA256(), length=len(h["okm"]), salt=h["salt"], info=h["info"]).derive(h["ikm"]) == h["okm"]


@pytest.mark.parametrize("vector", DERIVATION["bip39"]["vectors"])
def test_recovery_words_are_those_of_bip_39(vector):
    """Seeds of the reference vectors give their words, and the words give the seeds back."""
    key = KeyPair(bytes.fromhex(vector["seed"]))
    assert keyfile.to_words(key) == vector["words"]
    assert keyfile.from_words(vector["words"]).seed == key.seed


@pytest.mark.parametrize("vector", read("rfc8785.json")["vectors"])
def test_canonical_bytes_are_those_of_rfc_8785(vector):
    """The RFC's examples, as far as our profile goes, encode to the RFC's bytes."""
    assert canonical.encode(json.loads(vector["input"])) == vector["canonical"].encode()
