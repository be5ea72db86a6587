"""Tokenizers from files in the form of Hugging Face's ``tokenizers`` (``tokenizer.json``), pinned by their digest."""

import re
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from wwwmarket.domain.errors import Conflict, Malformed, NotFound, TooLarge, Unavailable
from wwwmarket.domain.identity import Digest
from wwwmarket.domain.model import ModelName
from wwwmarket.ports.tokenizer import Tokenizers

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILE_BYTES_MAX: Final = 128 * 1024 * 1024
"""The largest in use, with 260,000 tokens, have some 35 MB."""
_PIN: Final = re.compile(r"(?P<model>[^=]+)=(?P<file>.+?)(?:@sha256:(?P<digest>[0-9a-f]{64}))?")


class FileTokenizer:
    """One file. ``count`` lets other threads run meanwhile."""

    def __init__(self, digest: Digest, tokenizer: "Tokenizer") -> None:
        self.digest: Final = digest
        self._tokenizer = tokenizer

    def count(self, text: str) -> int:
        # What cannot be encoded (a lone surrogate from a JSON escape) is replaced, as it is on its way to any client
        plain = text.encode("utf-8", "replace").decode()
        return len(self._tokenizer.encode(plain, add_special_tokens=False))


def open_tokenizers(pins: Iterable[str]) -> Tokenizers:
    """What ``MODEL=FILE`` or ``MODEL=FILE@sha256:DIGEST`` say, by model.

    Raises:
        Malformed: not of that form, or the file is no tokenizer.
        NotFound: there is no such file.
        TooLarge: it is over 128 MiB.
        Conflict: it is another file than the one that was pinned, or a model has two.
        Unavailable: the extra ``tokenizers`` is not installed.
    """
    found: dict[ModelName, FileTokenizer] = {}
    for pin in pins:
        match = _PIN.fullmatch(pin)
        if match is None:
            raise Malformed(f"{pin!r} is no MODEL=FILE, nor MODEL=FILE@sha256:DIGEST", param="tokenizer")
        model = _model(match["model"])
        if model in found:
            raise Conflict(f"{model} has two tokenizers", param="tokenizer")
        found[model] = _open(Path(match["file"]), match["digest"])
    return found


def _model(text: str) -> ModelName:
    try:
        return msgspec.convert(text, ModelName)
    except msgspec.ValidationError:
        raise Malformed(f"{text!r} is no model's name", param="tokenizer") from None


def _open(file: Path, pinned: str | None) -> FileTokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise Unavailable(
            "counting with a tokenizer's file needs an extra: pip install 'wwwmarket[tokenizers]'", retry_after_ms=1_000
        ) from None
    if not file.is_file():
        raise NotFound(f"there is no tokenizer at {file}", param="tokenizer")
    if file.stat().st_size > FILE_BYTES_MAX:
        raise TooLarge(f"{file} is over {FILE_BYTES_MAX} bytes, which no tokenizer is", param="tokenizer")
    data = file.read_bytes()
    digest = sha256(data).hexdigest()
    if pinned is not None and digest != pinned:
        raise Conflict(f"{file} is not the tokenizer that was pinned: its digest is {digest}", param="tokenizer")
    try:
        tokenizer = Tokenizer.from_buffer(data)
    except Exception as error:  # noqa: BLE001 - the library raises plain Exception for whatever it cannot read
        raise Malformed(f"{file} is no tokenizer.json: {error}", param="tokenizer") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return FileTokenizer(Digest(digest), tokenizer)
