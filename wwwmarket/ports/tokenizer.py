"""How a text is split into the tokens of one model, by a tokenizer that its user chose and nobody can change."""

from collections.abc import Mapping
from typing import Protocol, TypeAlias

from wwwmarket.domain.identity import Digest
from wwwmarket.domain.model import ModelName


class Tokenizer(Protocol):
    """``digest`` is SHA-256 of the file that it was read from: what it is pinned by."""

    @property
    def digest(self) -> Digest: ...

    def count(self, text: str) -> int:
        """How many tokens ``text`` is, nothing added to it. May be called from any thread."""
        ...


Tokenizers: TypeAlias = Mapping[ModelName, Tokenizer]
