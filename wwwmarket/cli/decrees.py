"""Decrees of a committee on their way: proposed by anybody, signed by mirrors, joined and written by anybody."""

from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from wwwmarket.crypto.signing import verify_certified
from wwwmarket.domain.committee import Committee, Member
from wwwmarket.domain.errors import Conflict, Malformed, NotFound
from wwwmarket.domain.records import Certification, Certified, Resolution

T = TypeVar("T")

FILE_BYTES_MAX: Final = 262_144


def read_resolution(path: Path) -> Resolution:
    """A proposal, bare or with signatures. Raises Malformed."""
    fields = _decode(path, dict[str, Any])
    if "signatures" in fields:
        return read_certified(path).body
    resolution: Resolution = _decode(path, Resolution)
    return resolution


def read_certified(path: Path) -> Certified[Resolution]:
    """A proposal with signatures that hold. Raises Malformed, Unauthorised."""
    certified: Certified[Resolution] = _decode(path, Certified[Resolution])
    verify_certified(certified)
    return certified


def join(signed: list[Certified[Resolution]]) -> Certified[Resolution]:
    """One proposal with all of its signatures, in the order of their signers.

    Raises:
        Conflict: they are not of the same proposal.
    """
    first = signed[0].body
    if any(each.body != first for each in signed):
        raise Conflict("these files are of different proposals: join the signatures of one")
    by_signer: dict[str, Certification] = {one.signer: one for each in signed for one in each.signatures}
    return Certified(body=first, signatures=tuple(by_signer[signer] for signer in sorted(by_signer)))


def read_committee(paths: list[Path]) -> Committee:
    """A committee out of files, each of one member (``mirror init``), of a list of them, or of a committee.

    Raises:
        Malformed: none of these, or more members than a committee has.
    """
    members: list[Member] = []
    for path in paths:
        content = _decode(path, Any)
        if isinstance(content, dict):
            members += _decode(path, Committee).members if "members" in content else [_decode(path, Member)]
        else:
            members += _decode(path, list[Member])
    try:
        return msgspec.convert({"members": msgspec.to_builtins(members)}, Committee)
    except msgspec.ValidationError as error:
        raise Malformed(f"that is no committee: {error}") from None


def _decode(path: Path, shape: Any) -> Any:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > FILE_BYTES_MAX:
        raise Malformed(f"{path} is longer than any decree")
    try:
        return msgspec.json.decode(content, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed(f"{path} is not what is due here: {error}") from None
