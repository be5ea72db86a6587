"""The Go checksum database's own code, which shares nothing with ours, verifies an exported log."""

import json

import pytest
from msgspec.structs import replace

from wwwmarket.crypto.signing import KeyPair
from wwwmarket.ledger.checkpoint import (
    Checkpoint,
    cosign_checkpoint,
    open_checkpoint,
    sign_checkpoint,
    with_cosignatures,
)
from wwwmarket.ledger.export import files
from wwwmarket.ledger.merkle import leaf_hash, root_of
from wwwmarket.ledger.note import Cosigner, Signer, parse_note

SUMDB = "/usr/share/gocode/src/golang.org/x/mod/sumdb"
"""Where Debian's golang-golang-x-mod-dev lies."""

ORIGIN = "market.example/log"
COSIGNED_S = 1_700_000_000
ENTRIES = [b'{"entry":%d}' % index + b"x" * (index * 7 % 300) for index in range(700)]

pytestmark = pytest.mark.foreign("go", SUMDB)


@pytest.fixture(params=[len(ENTRIES), 512, 256, 1])  # Debian's tlog has another root for the empty tree than RFC 6962
def log(request, tmp_path):
    """The static files of a log, in a folder of its own; its checkpoint is cosigned too."""
    entries = ENTRIES[: request.param]
    signer, mirror = Signer(ORIGIN, KeyPair(bytes(32))), Cosigner("mirror.example", KeyPair(bytes(31) + b"\x01"))
    root = root_of(map(leaf_hash, entries))
    note = sign_checkpoint(signer, Checkpoint(origin=ORIGIN, size=len(entries), root=root))
    cosignature = cosign_checkpoint(mirror, open_checkpoint(note, signer.verifier), timestamp_s=COSIGNED_S)
    checkpoint = open_checkpoint(with_cosignatures(note, [cosignature]), signer.verifier, [mirror.verifier])
    for path, data in files(checkpoint, lambda start, end: entries[start:end]):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    (tmp_path / "vkey").write_text(signer.verifier.text)
    (tmp_path / "cosigners").write_text(f"{mirror.verifier.text}\n")
    return tmp_path, checkpoint.checkpoint


def flipped(data, place):
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


largest = pytest.mark.parametrize("log", [len(ENTRIES)], indirect=True)


def test_go_accepts_the_exported_log(go_verify, log):
    """Go opens the checkpoint, finds the root from the entries, and proves entries and growth from the tiles."""
    folder, checkpoint = log
    ran = go_verify(folder)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert (found["origin"], found["size"]) == (ORIGIN, checkpoint.size)
    assert found["inclusion_proofs"] == -(-checkpoint.size // 7)
    assert found["cosigners"] == {"mirror.example": COSIGNED_S}


@largest
def test_go_sees_every_file(go_verify, log):
    """For 700 entries the three bundles and four tiles are all there is, and Go reads each."""
    folder, _ = log
    found = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    assert found == [
        "checkpoint",
        "cosigners",
        "tile/0/000",
        "tile/0/001",
        "tile/0/002.p/188",
        "tile/1/000.p/2",
        "tile/entries/000",
        "tile/entries/001",
        "tile/entries/002.p/188",
        "vkey",
    ]
    assert json.loads(go_verify(folder).stdout)["tiles"] == 4


@largest
@pytest.mark.parametrize("place", [0, 0.5, 1])
def test_go_refuses_a_flipped_bit_in_any_file(go_verify, log, place):
    """One changed bit in the first, middle or last byte of any bundle, tile or key, and Go refuses the log."""
    folder, _ = log
    for file in sorted([*folder.glob("tile/**/[0-9]*"), folder / "vkey"]):
        if file.is_file():
            good = file.read_bytes()
            file.write_bytes(flipped(good, int(place * (len(good) - 1))))
            assert go_verify(folder).returncode == 1, file
            file.write_bytes(good)
    assert go_verify(folder).returncode == 0


@largest
def test_go_refuses_a_flipped_bit_in_the_checkpoint(go_verify, log):
    """In what the log wrote and signed: Go refuses it. In the cosignature's line: Go refuses it, or knows no such mirror."""
    folder, _ = log
    file = folder / "checkpoint"
    good = file.read_bytes()
    own = good.index("\N{EM DASH} mirror.example".encode())
    for place in range(0, len(good) - 3, 5):  # the last base64 character holds bits of no byte, which Go lets pass
        file.write_bytes(flipped(good, place))
        ran = go_verify(folder)
        assert ran.returncode == 1 or (place > own and json.loads(ran.stdout)["cosigners"] == {}), place


@largest
def test_go_takes_a_cosignature_at_its_word_about_the_time(go_verify, log):
    """The time is signed with the text: one second more in the line, and Go refuses it."""
    folder, _ = log
    file = folder / "checkpoint"
    good = file.read_bytes()
    line = parse_note(good).signatures[-1]
    moved = replace(line, signature=(COSIGNED_S + 1).to_bytes(8, "big") + line.signature[8:])
    file.write_bytes(good.replace(line.line.encode(), moved.line.encode()))
    assert go_verify(folder).returncode == 1
    file.write_bytes(good)
    assert go_verify(folder).returncode == 0


@largest
def test_a_cosignature_of_nobody_known_says_nothing_to_go(go_verify, log):
    """Without the mirror's key its line is passed over, as the specification demands."""
    folder, _ = log
    (folder / "cosigners").unlink()
    assert json.loads(go_verify(folder).stdout)["cosigners"] == {}


@largest
def test_go_refuses_a_missing_file(go_verify, log):
    """Without any one of its files the log is refused."""
    folder, _ = log
    for file in sorted(each for each in folder.rglob("*") if each.is_file() and each.name != "cosigners"):
        good = file.read_bytes()
        file.unlink()
        assert go_verify(folder).returncode == 1, file
        file.write_bytes(good)
