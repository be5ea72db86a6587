"""Notes and checkpoints agree with the examples of golang.org/x/mod/sumdb/note and of the C2SP specifications."""

import json
from base64 import b64decode
from pathlib import Path

import pytest

from wwwmarket.crypto.signing import KeyPair
from wwwmarket.domain.errors import Malformed, Unauthorised
from wwwmarket.ledger.checkpoint import parse_checkpoint
from wwwmarket.ledger.note import Signer, encode_note, open_note, parse_note, parse_verifier_key

VECTORS = json.loads(Path(__file__).with_name("notes.json").read_text())
TEXT, PETER, ENOCH = VECTORS["text"], VECTORS["peter_signature"], VECTORS["enoch_signature"]
PETER_KEY, ENOCH_KEY = (parse_verifier_key(VECTORS[key]) for key in ("peter_vkey", "enoch_vkey"))
BOTH = f"{TEXT}\n{PETER}{ENOCH}".encode()


def names(note):
    return [each.by.name for each in note.signatures]


def test_signing_gives_the_known_note():
    """The known private key signs the known text to the known bytes, under the known verifier key."""
    signer = Signer("PeterNeumann", KeyPair(b64decode(VECTORS["peter_private"])[1:]))
    assert encode_note(TEXT, [signer.sign(TEXT)]) == f"{TEXT}\n{PETER}".encode()
    assert signer.verifier == PETER_KEY
    assert signer.verifier.text == VECTORS["peter_vkey"]


def test_a_signature_by_an_unknown_key_is_ignored():
    """Of two signatures, the one of the known key counts."""
    assert names(open_note(BOTH, [PETER_KEY])) == ["PeterNeumann"]
    assert names(open_note(BOTH, [PETER_KEY, ENOCH_KEY])) == ["PeterNeumann", "EnochRoot"]
    assert open_note(BOTH, [ENOCH_KEY]).text == TEXT


def test_a_note_without_a_known_signature_is_refused():
    """A note that no known key has signed says nothing."""
    with pytest.raises(Unauthorised):
        open_note(BOTH, [])


def test_an_invalid_signature_in_a_known_name_is_refused():
    """Four characters more in a known key's signature, and the whole note is refused."""
    forged = f"{TEXT}\n{PETER[:60]}ABCD{PETER[60:]}{ENOCH}".encode()
    with pytest.raises(Unauthorised):
        open_note(forged, [PETER_KEY, ENOCH_KEY])


def test_a_repeated_signature_counts_once():
    """A signature that stands twice in a note is one signature."""
    assert names(open_note(f"{TEXT}\n{PETER}{PETER}{ENOCH}".encode(), [PETER_KEY])) == ["PeterNeumann"]


@pytest.mark.parametrize("what", VECTORS["malformed"])
def test_a_malformed_note_is_refused(what):
    """Each malformed note is refused."""
    with pytest.raises(Malformed):
        open_note(VECTORS["malformed"][what].encode(), [PETER_KEY])


def test_a_note_that_is_not_utf8_is_refused():
    """A byte that no UTF-8 text has makes the note malformed."""
    with pytest.raises(Malformed):
        open_note(b"\xff" + BOTH, [PETER_KEY])


@pytest.mark.parametrize("what", VECTORS["bad_vkeys"])
def test_a_bad_verifier_key_with_a_matching_id_is_refused(what):
    """A key of a wrong length or of an unknown type is refused although its id fits."""
    with pytest.raises(Malformed):
        parse_verifier_key(VECTORS["bad_vkeys"][what])


def test_every_part_and_every_mangling_of_a_verifier_key_is_refused():
    """No proper part of a verifier key is one, nor is the key with any one character raised by one."""
    text = VECTORS["peter_vkey"]
    parts = [text[start:end] for start in range(len(text)) for end in range(start, len(text) + 1)]
    parts.remove(text)
    mangled = [text[:place] + chr(ord(text[place]) + 1) + text[place + 1 :] for place in range(len(text))]
    for each in parts + mangled:
        with pytest.raises(Malformed):
            parse_verifier_key(each)


def test_the_checkpoint_of_the_specification_is_read():
    """The example checkpoint of C2SP has its origin, size, root and two signature lines, one timestamped."""
    note = parse_note(VECTORS["checkpoint"].encode())
    checkpoint = parse_checkpoint(note.text)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20_852_163)
    assert checkpoint.text == note.text
    assert [each.name for each in note.signatures] == [checkpoint.origin, "witness.example.com/w1"]
    assert [len(each.signature) for each in note.signatures] == [64, 8 + 64]
    assert int.from_bytes(note.signatures[1].signature[:8], "big") == 1_679_315_147
    assert encode_note(note.text, note.signatures) == VECTORS["checkpoint"].encode()
