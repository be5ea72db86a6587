"""Checkpoints (C2SP tlog-checkpoint): the tree's size and root under the log's name, as the text of a signed note.

``Checkpoint`` is what somebody wrote; ``VerifiedCheckpoint`` is what the log of that name did sign.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable
from typing import Final

from wwwmarket.domain.errors import Malformed, Unauthorised
from wwwmarket.domain.shape import Value
from wwwmarket.ledger.merkle import EMPTY_ROOT, SIZE_MAX
from wwwmarket.ledger.note import (
    Cosigner,
    NoteSignature,
    Signer,
    VerifiedSignature,
    VerifierKey,
    encode_note,
    open_note,
    parse_note,
)

_TEXT: Final = re.compile(
    r"(?P<origin>[^\n]+)\n(?P<size>0|[1-9][0-9]{0,18})\n(?P<root>[A-Za-z0-9+/]{43}=)\n(?P<extensions>(?:[^\n]+\n)*)",
    re.ASCII,
)


class Checkpoint(Value):
    """The tree of ``size`` entries of the log ``origin`` has the root hash ``root`` (32 bytes).

    ``extensions`` are further lines that other logs may write; ours writes none.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        lines = (self.origin, str(self.size), b64encode(self.root).decode(), *self.extensions)
        return "".join(f"{line}\n" for line in lines)


class VerifiedCheckpoint(Value):
    """A checkpoint that its log signed, with its cosignatures by known keys. Made by this module alone."""

    checkpoint: Checkpoint
    note: bytes
    cosignatures: tuple[VerifiedSignature, ...] = ()


def parse_checkpoint(text: str) -> Checkpoint:
    """Read a note's text as a checkpoint.

    Raises:
        Malformed: not the canonical text of a checkpoint, or of a tree that cannot be.
    """
    match = _TEXT.fullmatch(text)
    if match is None:
        raise Malformed("not a checkpoint, whose lines are an origin, a size and a root hash")
    checkpoint = Checkpoint(
        origin=match["origin"],
        size=int(match["size"]),
        root=b64decode(match["root"]),
        extensions=tuple(match["extensions"].split("\n")[:-1]),
    )
    if checkpoint.text != text:
        raise Malformed("the root hash is not canonical base64")
    if checkpoint.size > SIZE_MAX:
        raise Malformed(f"a tree has at most {SIZE_MAX} entries")
    if checkpoint.size == 0 and checkpoint.root != EMPTY_ROOT:
        raise Malformed("that is not the root of the empty tree")
    return checkpoint


def sign_checkpoint(signer: Signer, checkpoint: Checkpoint) -> bytes:
    """The signed note of a checkpoint, by the log's own key, whose name is the origin."""
    assert signer.verifier.name == checkpoint.origin, "a log signs under its own name"
    assert parse_checkpoint(checkpoint.text) == checkpoint, "a checkpoint that nobody could read"
    return encode_note(checkpoint.text, [signer.sign(checkpoint.text)])


def open_checkpoint(note: bytes, log: VerifierKey, cosigners: Iterable[VerifierKey] = ()) -> VerifiedCheckpoint:
    """Read a checkpoint that the log did sign, and which of ``cosigners`` have cosigned it.

    Raises:
        TooLarge, Malformed: not a note, or its text not a checkpoint.
        Unauthorised: not signed by ``log``, of another log, or with an invalid signature in the name of a known key.
    """
    opened = open_note(note, [log, *cosigners])
    checkpoint = parse_checkpoint(opened.text)
    if all(each.by != log for each in opened.signatures):
        raise Unauthorised(f"this checkpoint is not signed by its log, {log.name}")
    if checkpoint.origin != log.name:
        raise Unauthorised(f"a checkpoint of {checkpoint.origin} where one of {log.name} is due")
    others = tuple(each for each in opened.signatures if each.by != log)
    return VerifiedCheckpoint(checkpoint=checkpoint, note=note, cosignatures=others)


def cosign_checkpoint(cosigner: Cosigner, verified: VerifiedCheckpoint, *, timestamp_s: int) -> NoteSignature:
    """A cosigner's word that this was, at ``timestamp_s``, the largest tree it saw of that log, and consistent."""
    return cosigner.sign(verified.checkpoint.text, timestamp_s=timestamp_s)


def with_cosignatures(note: bytes, cosignatures: Iterable[NoteSignature]) -> bytes:
    """The same checkpoint with more signature lines; one that it has already is not repeated.

    Raises:
        TooLarge: more signatures than a note may have.
        Malformed: not a note.
    """
    parsed = parse_note(note)
    return encode_note(parsed.text, list(dict.fromkeys((*parsed.signatures, *cosignatures))))
