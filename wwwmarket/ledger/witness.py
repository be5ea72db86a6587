"""The body of ``add-checkpoint``, by which a log asks for a cosignature (C2SP tlog-witness).

old <size of the tree that the cosigner has cosigned last>
<hash of the consistency proof, base64>      none or more of them
<blank line>
<checkpoint, a signed note>
"""

import re
from base64 import b64decode, b64encode
from typing import Final

from wwwmarket.domain.errors import Malformed, TooLarge
from wwwmarket.domain.shape import Value
from wwwmarket.ledger.merkle import SIZE_MAX
from wwwmarket.ledger.note import NOTE_BYTES_MAX
from wwwmarket.ledger.proofs import Proof

PROOF_LINES_MAX: Final = 63
REQUEST_BYTES_MAX: Final = NOTE_BYTES_MAX + 4_096
"""A note, the old size, and 63 hashes of 45 bytes."""

SIZE_TYPE: Final = "text/x.tlog.size"
"""The media type of the answer that names the size which the cosigner has cosigned last."""

_OLD: Final = re.compile(rb"old (0|[1-9][0-9]{0,18})", re.ASCII)
_HASH: Final = re.compile(rb"[A-Za-z0-9+/]{43}=", re.ASCII)
_SIZE: Final = re.compile(rb"(0|[1-9][0-9]{0,18})\n", re.ASCII)


class CosignRequest(Value):
    """Asks to cosign the checkpoint ``note``, whose tree begins with the one of ``old`` entries by ``proof``."""

    old: int
    proof: Proof
    note: bytes


def encode_request(request: CosignRequest) -> bytes:
    lines = [f"old {request.old}", *(b64encode(each).decode() for each in request.proof), "", ""]
    return "\n".join(lines).encode() + request.note


def parse_request(body: bytes) -> CosignRequest:
    """Read a body; its note is not yet read.

    Raises:
        TooLarge: more bytes than a proof and a note can have.
        Malformed: not the canonical form of a request.
    """
    if len(body) > REQUEST_BYTES_MAX:
        raise TooLarge(f"a request has at most {REQUEST_BYTES_MAX} bytes")
    head, blank, note = body.partition(b"\n\n")
    first, *lines = head.split(b"\n", PROOF_LINES_MAX + 1)
    old = _OLD.fullmatch(first)
    if not blank or old is None or int(old[1]) > SIZE_MAX:
        raise Malformed("a request is a line 'old <size>', hashes, a blank line and a checkpoint")
    if len(lines) > PROOF_LINES_MAX or not all(map(_is_hash, lines)):
        raise Malformed(f"a consistency proof is at most {PROOF_LINES_MAX} lines, each 32 bytes in base64")
    return CosignRequest(old=int(old[1]), proof=Proof(tuple(map(b64decode, lines))), note=note)


def parse_size(body: bytes) -> int:
    """The size in an answer of type ``text/x.tlog.size``. Raises Malformed."""
    match = _SIZE.fullmatch(body)
    if match is None or int(match[1]) > SIZE_MAX:
        raise Malformed("not a tree size")
    return int(match[1])


def _is_hash(line: bytes) -> bool:
    return _HASH.fullmatch(line) is not None and b64encode(b64decode(line)) == line
