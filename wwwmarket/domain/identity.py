"""Who and which: names of accounts, nodes, records.

A key's public half *is* the name, so nothing has to be looked up before a signature can be checked.
"""

from typing import Annotated, Final, NewType

from msgspec import Meta

_Hex32 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Hex64 = Annotated[str, Meta(pattern=r"^[0-9a-f]{128}\Z")]

AccountId = NewType("AccountId", _Hex32)
"""An Ed25519 public key (RFC 8032), 32 bytes as lower-case hex: whoever holds the private half is the account."""

NodeId = NewType("NodeId", _Hex32)
"""The Ed25519 public key under which a node speaks to other nodes, and its address on the transport."""

SealingKey = NewType("SealingKey", _Hex32)
"""An X25519 public key (RFC 7748) to which prompts are sealed."""

Digest = NewType("Digest", _Hex32)
"""SHA-256 of a kind and its canonical bytes (see ``crypto.digest``), as lower-case hex."""

EntryId = NewType("EntryId", _Hex32)
"""Digest of a ledger entry without its signature. An offer and an award are named by the entry that made them."""

Signature = NewType("Signature", _Hex64)
"""An Ed25519 signature, 64 bytes as lower-case hex."""

NO_ENTRY: Final = EntryId("0" * 64)
"""``prev`` of an account's first entry."""
