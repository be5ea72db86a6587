"""Proofs as files (C2SP tlog-proof): that an entry is in a log, under a checkpoint, for readers without a connection.

    c2sp.org/tlog-proof@v1
    extra <base64>                               not authenticated; left out where there is none
    index <index of the entry>
    <hash of the inclusion proof, base64>        none or more, from the leaf upwards
    <blank line>
    <checkpoint, a signed note>

The file says what somebody claims. ``verify_proof_file`` says whether it follows from the checkpoint, and
``ledger.policy`` whether the checkpoint is to be believed.
"""

import binascii
import re
from base64 import b64decode, b64encode
from typing import Final

from wwwmarket.domain.errors import Malformed, TooLarge
from wwwmarket.domain.shape import Value
from wwwmarket.ledger.checkpoint import Checkpoint
from wwwmarket.ledger.merkle import SIZE_MAX, leaf_hash
from wwwmarket.ledger.note import NOTE_BYTES_MAX
from wwwmarket.ledger.proofs import Proof, verify_inclusion

MEDIA_TYPE: Final = "text/plain; charset=utf-8"
HASHES_MAX: Final = 63
EXTRA_BYTES_MAX: Final = 786_432
"""An entry has at most 65,535 bytes; the bucket that proves a balance, at 4,096 rows, 526,000."""
FILE_BYTES_MAX: Final = 4 * EXTRA_BYTES_MAX // 3 + NOTE_BYTES_MAX + 4_096

_FIRST: Final = b"c2sp.org/tlog-proof@v1\n"
_EXTRA: Final = b"extra "
_INDEX: Final = re.compile(rb"index (0|[1-9][0-9]{0,18})\n", re.ASCII)
_HASH: Final = re.compile(rb"[A-Za-z0-9+/]{43}=", re.ASCII)


class ProofFile(Value):
    """``extra`` empty: none. ``note`` is the checkpoint as it stands in the file; nobody has said it yet."""

    extra: bytes
    index: int
    proof: Proof
    note: bytes


def encode_proof_file(file: ProofFile) -> bytes:
    assert len(file.extra) <= EXTRA_BYTES_MAX, "extra data that nobody would read"
    extra = _EXTRA + b64encode(file.extra) + b"\n" if file.extra else b""
    hashes = b"".join(b64encode(each) + b"\n" for each in file.proof)
    return b"%b%bindex %d\n%b\n%b" % (_FIRST, extra, file.index, hashes, file.note)


def parse_proof_file(data: bytes) -> ProofFile:
    """Read a file without believing it; its note is not yet read.

    Raises:
        TooLarge: more bytes than its parts can have.
        Malformed: not the canonical form of a proof.
    """
    if len(data) > FILE_BYTES_MAX:
        raise TooLarge(f"a proof has at most {FILE_BYTES_MAX} bytes")
    if not data.startswith(_FIRST):
        raise Malformed(f"a proof begins with the line {_FIRST.decode().strip()}")
    extra, rest = _split_extra(data[len(_FIRST) :])
    index = _INDEX.match(rest)
    if index is None or int(index[1]) > SIZE_MAX:
        raise Malformed("a proof names its entry in a line 'index <number>'")
    head, blank, note = rest[index.end() :].partition(b"\n\n")
    if rest[index.end() :].startswith(b"\n"):
        head, blank, note = b"", b"\n", rest[index.end() + 1 :]
    lines = head.split(b"\n", HASHES_MAX) if head else []
    if not blank or len(lines) > HASHES_MAX or not all(map(_is_hash, lines)):
        raise Malformed(f"an inclusion proof is at most {HASHES_MAX} lines of 32 bytes in base64, and a blank line")
    return ProofFile(extra=extra, index=int(index[1]), proof=Proof(tuple(map(b64decode, lines))), note=note)


def verify_proof_file(file: ProofFile, entry: bytes, checkpoint: Checkpoint) -> None:
    """Check that ``entry`` stands at the file's index under ``checkpoint``. Raises Malformed."""
    verify_inclusion(file.index, checkpoint.size, leaf_hash(entry), file.proof, checkpoint.root)


def _split_extra(rest: bytes) -> tuple[bytes, bytes]:
    if not rest.startswith(_EXTRA):
        return b"", rest
    line, _, rest = rest[len(_EXTRA) :].partition(b"\n")
    try:
        extra = b64decode(line, validate=True)
    except binascii.Error:
        extra = b""
    if not extra or b64encode(extra) != line:
        raise Malformed("extra data is a line of canonical base64")
    if len(extra) > EXTRA_BYTES_MAX:
        raise TooLarge(f"extra data has at most {EXTRA_BYTES_MAX} bytes")
    return extra, rest


def _is_hash(line: bytes) -> bool:
    return _HASH.fullmatch(line) is not None and b64encode(b64decode(line)) == line
