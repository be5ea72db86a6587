"""The Go checksum database's own code, which shares nothing with ours, verifies an exported log."""

import json

import pytest

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
from wwwmarket.ledger.note import Cosigner, Signer

SUMDB = "/usr/share/gocode/src/golang.org/x/mod/sumdb"
"""Where Debian's golang-golang-x-mod-dev lies."""

ORIGIN = "market.example/log"
ENTRIES = [b'{"entry":%d}' % index + b"x" * (index * 7 % 300) for index in range(700)]

pytestmark = pytest.mark.foreign("go", SUMDB)


@pytest.fixture(params=[len(ENTRIES), 512, 256, 1])  # Debian's tlog has another root for the empty tree than RFC 6962
def log(request, tmp_path):
    """The static files of a log, in a folder of its own; its checkpoint is cosigned too."""
    entries = ENTRIES[: request.param]
    signer, mirror = Signer(ORIGIN, KeyPair(bytes(32))), Cosigner("mirror.example", KeyPair(bytes(31) + b"\x01"))
    root = root_of(map(leaf_hash, entries))
    note = sign_checkpoint(signer, Checkpoint(origin=ORIGIN, size=len(entries), root=root))
    cosignature = cosign_checkpoint(mirror, open_checkpoint(note, signer.verifier), timestamp_s=1_700_000_000)
    checkpoint = open_checkpoint(with_cosignatures(note, [cosignature]), signer.verifier, [mirror.verifier])
    for path, data in files(checkpoint, lambda start, end: entries[start:end]):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    (tmp_path / "vkey").write_text(signer.verifier.text)
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


@largest
def test_go_sees_every_file(go_verify, log):
    """For 700 entries the three bundles and four tiles are all there is, and Go reads each."""
    folder, _ = log
    found = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    assert found == [
        "checkpoint",
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
    """One changed bit in what the log itself wrote and signed, and Go refuses it; the cosignature is not Go's to judge."""
    folder, _ = log
    file = folder / "checkpoint"
    good = file.read_bytes()
    own = good.index("\N{EM DASH} mirror.example".encode())
    for place in range(0, own - 3, 5):  # the last base64 character holds bits of no byte, which Go lets pass
        file.write_bytes(flipped(good, place))
        assert go_verify(folder).returncode == 1, place


@largest
def test_go_refuses_a_missing_file(go_verify, log):
    """Without any one of its files the log is refused."""
    folder, _ = log
    for file in sorted(each for each in folder.rglob("*") if each.is_file()):
        good = file.read_bytes()
        file.unlink()
        assert go_verify(folder).returncode == 1, file
        file.write_bytes(good)
