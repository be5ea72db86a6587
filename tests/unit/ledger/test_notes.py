"""Notes and cosignatures: who signed what, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wwwmarket.crypto.signing import KeyPair
from wwwmarket.domain.errors import Malformed, Refusal, TooLarge, Unauthorised
from wwwmarket.ledger.note import (
    NOTE_BYTES_MAX,
    SIGNATURES_MAX,
    TIMESTAMP_S_MAX,
    Cosigner,
    NoteSignature,
    Signer,
    VerifierKey,
    encode_note,
    open_note,
    parse_note,
    parse_signatures,
    parse_verifier_key,
)

TEXT = "first line\n\n\N{EM DASH} looks like a signature\n"
KEY = KeyPair(bytes(32))
SIGNER, OTHER = Signer("log.example", KEY), Signer("other.example", KeyPair(b"o" * 32))
COSIGNER = Cosigner("mirror.example", KeyPair(b"m" * 32))
NOTE = encode_note(TEXT, [SIGNER.sign(TEXT), COSIGNER.sign(TEXT, timestamp_s=1_679_315_147)])
KEYS = [SIGNER.verifier, COSIGNER.verifier]


def test_a_note_says_who_signed_it_and_when():
    """An author's signature and a cosignature with its time, in the order in which they stand."""
    opened = open_note(NOTE, KEYS)
    assert opened.text == TEXT
    assert [(each.by, each.timestamp_s) for each in opened.signatures] == [
        (SIGNER.verifier, None),
        (COSIGNER.verifier, 1_679_315_147),
    ]


def test_a_verifier_key_is_read_as_it_was_written():
    """The text of a key of either type gives the key."""
    for key in KEYS:
        assert parse_verifier_key(key.text) == key


@pytest.mark.parametrize("name", ["", "log example", "log\u2003example", "log\u0001example"])
def test_a_verifier_key_whose_name_no_signature_line_can_hold_is_refused(name):
    """An empty name, or one with a space, is refused although the id fits it."""
    text = VerifierKey(name=name, account=KEY.account).text
    with pytest.raises(Malformed, match="not a verifier key"):
        parse_verifier_key(text)


def test_signature_lines_without_a_text_are_not_a_note():
    """A blank line stands between text and signatures."""
    with pytest.raises(Malformed, match="blank line"):
        parse_note(SIGNER.sign("\n").line.encode())


def test_one_key_in_two_uses_has_two_ids():
    """The type is part of the id, so that a signature of one kind never passes for the other."""
    assert Cosigner(SIGNER.verifier.name, KEY).verifier.id != SIGNER.verifier.id
    with pytest.raises(Unauthorised):
        open_note(NOTE, [Cosigner(SIGNER.verifier.name, KEY).verifier])


@given(st.integers(0, len(NOTE) - 1), st.integers(1, 255))
def test_no_changed_byte_leaves_a_note_with_the_same_signers(place, change):
    """Whichever byte is changed: refused, or a signature became unknown."""
    changed = NOTE[:place] + bytes([NOTE[place] ^ change]) + NOTE[place + 1 :]
    try:
        opened = open_note(changed, KEYS)
    except Refusal:
        return
    assert opened.text == TEXT
    assert len(opened.signatures) == 1


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_whatever_is_read_as_a_note_is_written_back_as_it_was(data):
    """A note has one encoding, and other bytes are refused without a fault."""
    for candidate in (data, data + NOTE, NOTE + data):
        try:
            note = parse_note(candidate)
        except Malformed:
            continue
        assert encode_note(note.text, note.signatures) == candidate


def test_a_known_key_with_a_bad_signature_spoils_the_whole_note():
    """A valid signature beside it does not save a note with an invalid one of a known key."""
    forged = NoteSignature(name="other.example", key_id=OTHER.verifier.id, signature=bytes(64))
    note = encode_note(TEXT, [SIGNER.sign(TEXT), forged])
    assert open_note(note, KEYS).signatures
    with pytest.raises(Unauthorised):
        open_note(note, [*KEYS, OTHER.verifier])


def test_every_signature_of_a_known_key_is_verified_not_only_its_first():
    """A second, invalid signature of the same key is refused too."""
    good = SIGNER.sign(TEXT)
    bad = NoteSignature(name=good.name, key_id=good.key_id, signature=bytes(64))
    with pytest.raises(Unauthorised):
        open_note(encode_note(TEXT, [good, bad]), KEYS)


def test_a_signature_under_a_known_id_and_another_name_is_ignored():
    """Name and id together name the key."""
    good = SIGNER.sign(TEXT)
    renamed = NoteSignature(name="log.example2", key_id=good.key_id, signature=good.signature)
    with pytest.raises(Unauthorised, match="none of the known keys"):
        open_note(encode_note(TEXT, [renamed]), KEYS)


@pytest.mark.parametrize("length", [1, 8, 63, 64, 71, 73])
def test_a_signature_of_the_wrong_length_is_refused(length):
    """Neither a signature nor a cosignature has these lengths, 64 being the cosignature without its time."""
    for key in (COSIGNER.verifier, *([SIGNER.verifier] if length != 64 else [])):
        short = NoteSignature(name=key.name, key_id=key.id, signature=bytes(length))
        with pytest.raises(Unauthorised):
            open_note(encode_note(TEXT, [short]), [key])


def test_a_cosignature_is_bound_to_its_time():
    """The same cosignature under another time is invalid, and so is one after the end of time."""
    made = COSIGNER.sign(TEXT, timestamp_s=5)
    for time in (6, TIMESTAMP_S_MAX + 1):
        moved = NoteSignature(
            name=made.name, key_id=made.key_id, signature=time.to_bytes(8, "big") + made.signature[8:]
        )
        with pytest.raises(Unauthorised):
            open_note(encode_note(TEXT, [moved]), KEYS)


def test_a_cosignature_after_the_end_of_time_is_refused_even_if_it_is_valid():
    """A timestamp never exceeds 2^63 - 1 seconds, whoever signs it."""
    time = TIMESTAMP_S_MAX + 1
    signature = KeyPair(b"m" * 32).sign_bytes(f"cosignature/v1\ntime {time}\n{TEXT}".encode())
    late = NoteSignature(
        name="mirror.example", key_id=COSIGNER.verifier.id, signature=time.to_bytes(8, "big") + signature
    )
    with pytest.raises(Unauthorised):
        open_note(encode_note(TEXT, [late]), KEYS)


def test_a_note_is_at_most_so_many_bytes():
    """One byte over the limit is refused before anything is read."""
    padding = NOTE_BYTES_MAX - len(NOTE)
    with pytest.raises(TooLarge):
        parse_note(b"x" * (padding + 1) + NOTE)
    assert parse_note(b"x" * padding + NOTE)


def test_a_note_has_at_most_100_signatures():
    """100 signature lines are read and written, one more is not."""
    line = SIGNER.sign(TEXT)
    full = encode_note(TEXT, [line] * SIGNATURES_MAX)
    assert len(parse_note(full).signatures) == SIGNATURES_MAX
    with pytest.raises(Malformed):
        parse_note(full + line.line.encode())
    with pytest.raises(TooLarge):
        encode_note(TEXT, [line] * (SIGNATURES_MAX + 1))


@pytest.mark.parametrize(
    "block",
    [
        "",
        "\n",
        "\N{EM DASH} log.example AAAAAAA=",  # no newline
        "- log.example AAAAAAA=\n",
        "\N{EM DASH}log.example AAAAAAA=\n",
        "\N{EM DASH}  AAAAAAA=\n",
        "\N{EM DASH} log+example AAAAAAA=\n",
        "\N{EM DASH} log\u2003example AAAAAAA=\n",
        "\N{EM DASH} log\u0001example AAAAAAA=\n",
        "\N{EM DASH} log.example\n",
        "\N{EM DASH} log.example \n",
        "\N{EM DASH} log.example AAAAAA==\n",  # a key id and no signature
        "\N{EM DASH} log.example AAAAAAB=\n",  # bits of no byte
        "\N{EM DASH} log.example AAAAAAA\n",  # no padding
        "\N{EM DASH} log.example AAAA AAA=\n",
        "\N{EM DASH} log.example _-AAAAA=\n",
        "\N{EM DASH} log.example \u00e9AAAAAA=\n",
    ],
)
def test_a_line_that_is_not_a_signature_line_is_refused(block):
    """An em dash, a name without spaces, and canonical base64: anything else is refused."""
    with pytest.raises(Malformed):
        parse_signatures(block)
