"""One value, one encoding: over all values of all types."""

from contextlib import suppress

import msgspec
import pytest
import rfc8785
from crypto_strategies import BODIES, RECORDS, SHAPES, values
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wwwmarket.crypto import canonical
from wwwmarket.crypto.digest import digest
from wwwmarket.crypto.signing import KeyPair, open_entry, sign, sign_entry, verify, verify_bytes
from wwwmarket.domain.errors import Malformed, Unauthorised
from wwwmarket.domain.identity import NO_ENTRY
from wwwmarket.domain.quantity import INTEGER_MAX
from wwwmarket.domain.records import Body, Signed

quick = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])

ascii_keys = st.text(st.characters(max_codepoint=127), max_size=8)
scalars = st.none() | st.booleans() | st.integers(-INTEGER_MAX, INTEGER_MAX) | st.text()
profile = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ascii_keys, inner, max_size=4)
)


@given(value=profile)
@settings(max_examples=300, deadline=None)
def test_canonical_bytes_are_those_of_rfc_8785(value):
    """On our profile (ASCII keys, integers below 2^53, no floats) the encoder is the JSON Canonicalization Scheme."""
    assert canonical.encode(value) == rfc8785.dumps(value)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@given(data=st.data())
@quick
def test_every_value_comes_back_from_its_bytes(shape, data):
    """Decoding what was encoded gives the same value, for every record, signed record and entry."""
    value = data.draw(values(shape))
    assert canonical.decode(canonical.encode(value), shape) == value


@pytest.mark.parametrize("shape", RECORDS, ids=str)
@given(data=st.data())
@quick
def test_one_other_byte_is_refused_or_is_another_value(shape, data):
    """No byte of a record's encoding can be changed without its being refused or meaning something else."""
    value = data.draw(values(shape))
    encoded = bytearray(canonical.encode(value))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] = data.draw(st.integers(0, 255).filter(lambda byte: byte != encoded[place]))
    try:
        decoded = canonical.decode(bytes(encoded), shape)
    except Malformed:
        return
    assert decoded != value


@given(noise=st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_noise_is_malformed_and_nothing_else(noise):
    """Whatever bytes a stranger sends, the answer is a value or a refusal, never another error."""
    with suppress(Malformed):
        canonical.decode(noise, Body)


@given(data=st.data())
@quick
def test_records_are_read_by_their_kind_alone(data):
    """A union of all bodies gives back the class that was encoded, and no other class reads its bytes."""
    value = data.draw(st.one_of(*map(values, BODIES)))
    encoded = canonical.encode(value)
    assert type(canonical.decode(encoded, Body)) is type(value)
    other = data.draw(st.sampled_from([shape for shape in RECORDS if shape is not type(value)]))
    with pytest.raises(Malformed):
        canonical.decode(encoded, other)


@given(data=st.data())
@quick
def test_a_signature_on_one_kind_never_verifies_on_another(data):
    """The kind is part of what is signed, so the same signature on any other record is refused."""
    one, other = data.draw(st.lists(st.sampled_from(RECORDS), min_size=2, max_size=2, unique=True))
    verified = sign(KeyPair(bytes(32)), data.draw(values(one)))
    assert verify(verified.signed) == verified
    forged = Signed(body=data.draw(values(other)), signer=verified.by, signature=verified.signed.signature)
    with pytest.raises(Unauthorised):
        verify(forged)


@given(data=st.data())
@quick
def test_an_entry_comes_back_from_its_leaf(data):
    """What was signed as an entry opens as that entry, with the body that went in."""
    body = data.draw(st.one_of(*map(values, BODIES)))
    entry = sign_entry(KeyPair(bytes(32)), seq=0, prev=NO_ENTRY, body=body)
    opened = open_entry(canonical.encode(entry))
    assert canonical.decode(bytes(opened.entry.body), Body) == body


@given(message=st.binary(max_size=64), bit=st.integers(0, 511))
@quick
def test_no_bit_of_a_signature_can_be_flipped(message, bit):
    """Signatures are not malleable: each single-bit change is refused."""
    key = KeyPair(bytes(32))
    signature = bytearray(key.sign_bytes(message))
    signature[bit // 8] ^= 1 << bit % 8
    assert not verify_bytes(key.account, message, bytes(signature))


@given(data=st.data())
@quick
def test_different_records_have_different_digests(data):
    """Two records share a digest only when they are the same record."""
    one, other = (data.draw(st.one_of(*map(values, RECORDS))) for _ in range(2))
    assert (digest(one) == digest(other)) == (one == other)


@given(text=st.text())
@quick
def test_text_is_kept_to_the_character(text):
    """No normalisation and no replacement: what is signed is what was said."""
    assert msgspec.json.decode(canonical.encode(text)) == text
