"""Checkpoints and the export of a log: only the log's own word counts, and only about a tree that can be."""

from base64 import b64encode

import pytest

from wwwmarket.crypto.signing import KeyPair
from wwwmarket.domain.errors import Malformed, Unauthorised
from wwwmarket.ledger.checkpoint import (
    Checkpoint,
    cosign_checkpoint,
    open_checkpoint,
    parse_checkpoint,
    sign_checkpoint,
    with_cosignatures,
)
from wwwmarket.ledger.export import files
from wwwmarket.ledger.merkle import EMPTY_ROOT, leaf_hash, root_of
from wwwmarket.ledger.note import Cosigner, Signer, encode_note
from wwwmarket.ledger.tiles import BundleId, path_of

ENTRIES = [b"entry %d" % index for index in range(300)]
LOG = Signer("log.example", KeyPair(bytes(32)))
MIRROR = Cosigner("mirror.example", KeyPair(b"m" * 32))
CHECKPOINT = Checkpoint(origin="log.example", size=300, root=root_of(map(leaf_hash, ENTRIES)))
NOTE = sign_checkpoint(LOG, CHECKPOINT)
ROOT = b64encode(bytes(32)).decode()


def read(start, end):
    return ENTRIES[start:end]


def test_a_signed_checkpoint_is_opened_with_the_logs_key():
    """What the log signed is what is read, with its bytes."""
    opened = open_checkpoint(NOTE, LOG.verifier)
    assert (opened.checkpoint, opened.note, opened.cosignatures) == (CHECKPOINT, NOTE, ())


def test_a_cosignature_is_counted_beside_the_logs_signature():
    """A mirror's cosignature, added twice, stands once under the checkpoint, with its time."""
    line = cosign_checkpoint(MIRROR, open_checkpoint(NOTE, LOG.verifier), timestamp_s=17)
    note = with_cosignatures(with_cosignatures(NOTE, [line]), [line])
    opened = open_checkpoint(note, LOG.verifier, [MIRROR.verifier])
    assert [(each.by, each.timestamp_s) for each in opened.cosignatures] == [(MIRROR.verifier, 17)]
    assert open_checkpoint(note, LOG.verifier).cosignatures == ()


def test_a_checkpoint_without_the_logs_signature_is_refused():
    """Cosigners alone do not make a checkpoint."""
    note = encode_note(CHECKPOINT.text, [MIRROR.sign(CHECKPOINT.text, timestamp_s=17)])
    with pytest.raises(Unauthorised, match="not signed by its log"):
        open_checkpoint(note, LOG.verifier, [MIRROR.verifier])


def test_a_checkpoint_of_another_log_is_refused_even_with_the_right_signature():
    """The key's name and the origin are one."""
    text = Checkpoint(origin="log.example/2", size=300, root=bytes(32)).text
    with pytest.raises(Unauthorised, match=r"log.example/2"):
        open_checkpoint(encode_note(text, [LOG.sign(text)]), LOG.verifier)


def test_extension_lines_are_kept():
    """Lines that another log adds are read and written back."""
    text = f"log.example\n5\n{ROOT}\nmore\nand more\n"
    assert parse_checkpoint(text).extensions == ("more", "and more")
    assert parse_checkpoint(text).text == text


def test_the_largest_and_the_smallest_tree_can_be_told():
    """Sizes from 0, whose root is that of the empty tree, to 2^63 - 1."""
    for checkpoint in (
        Checkpoint(origin="x", size=0, root=EMPTY_ROOT),
        Checkpoint(origin="x", size=2**63 - 1, root=bytes(32)),
    ):
        assert parse_checkpoint(checkpoint.text) == checkpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "log.example\n5\n",
        f"log.example\n5\n{ROOT}",
        f"\n5\n{ROOT}\n",
        f"log.example\n\n{ROOT}\n",
        f"log.example\n05\n{ROOT}\n",
        f"log.example\n+5\n{ROOT}\n",
        f"log.example\n-5\n{ROOT}\n",
        f"log.example\n5 \n{ROOT}\n",
        f"log.example\n\u0665\n{ROOT}\n",
        f"log.example\n{2**63}\n{ROOT}\n",
        f"log.example\n0\n{ROOT}\n",
        f"log.example\n5\n{ROOT[:-1]}\n",
        f"log.example\n5\n{ROOT[:-2]}B=\n",
        f"log.example\n5\n{b64encode(bytes(31)).decode()}\n",
        f"log.example\n5\n{ROOT}\n\n",
        f"log.example\n5\n{ROOT}\nextension\n\nanother\n",
    ],
)
def test_a_text_that_is_not_a_checkpoint_is_refused(text):
    """Three non-empty lines, a canonical size and root: anything else is refused."""
    with pytest.raises(Malformed):
        parse_checkpoint(text)


def test_the_export_ends_with_the_checkpoint():
    """Every bundle and tile comes before the checkpoint that promises them."""
    paths = [path for path, _ in files(open_checkpoint(NOTE, LOG.verifier), read)]
    assert paths == [
        "tile/entries/000",
        "tile/0/000",
        path_of(BundleId(number=1, width=44)),
        "tile/0/001.p/44",
        "tile/1/000.p/1",
        "checkpoint",
    ]


def test_the_export_of_an_empty_log_is_its_checkpoint():
    """No empty tile and no empty bundle is ever written."""
    note = sign_checkpoint(LOG, Checkpoint(origin="log.example", size=0, root=EMPTY_ROOT))
    assert list(files(open_checkpoint(note, LOG.verifier), read)) == [("checkpoint", note)]


@pytest.mark.parametrize(
    ("kept", "why"), [(ENTRIES[:299], "has 299 entries"), ([*ENTRIES[:299], b"another"], "do not add up")]
)
def test_a_log_that_does_not_add_up_to_its_checkpoint_is_not_exported(kept, why):
    """With an entry missing or changed, the export fails before its checkpoint is written."""
    paths = []
    with pytest.raises(Malformed, match=why):
        paths.extend(path for path, _ in files(open_checkpoint(NOTE, LOG.verifier), lambda start, end: kept[start:end]))
    assert "checkpoint" not in paths
