"""API keys: each is a sub-account on the ledger, whose key is derived from the node's, and whose balance is its budget.

A secret is shown once and kept hashed. Nothing is spent but by entries that the sub-account signs.
"""

from base64 import urlsafe_b64encode
from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta
from msgspec.structs import replace

from wwwmarket.crypto import canonical
from wwwmarket.crypto.derivation import child
from wwwmarket.crypto.digest import tagged
from wwwmarket.crypto.signing import KeyPair
from wwwmarket.domain.errors import NotFound, Unauthorised
from wwwmarket.domain.identity import Digest
from wwwmarket.domain.quantity import Millis
from wwwmarket.domain.shape import Value
from wwwmarket.node.service import ApiKeyView
from wwwmarket.ports.clock import Clock, Entropy
from wwwmarket.ports.store import Change, RecordStore

KEY: Final = "api-key"
PREFIX: Final = "sk-"
_SECRET_BYTES: Final = 32


class KeyRecord(Value):
    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
    name: Annotated[str, Meta(max_length=128)]
    secret: Digest
    created_ms: Millis
    revoked: bool = False


class Keyring:
    def __init__(self, node: KeyPair, store: RecordStore, clock: Clock, entropy: Entropy) -> None:
        self._node = node
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._records: dict[str, KeyRecord] = {}
        self._by_secret: dict[Digest, KeyRecord] = {}
        self._pairs: dict[str, KeyPair] = {}

    async def load(self) -> None:
        for _, body in await self._store.scan(KEY):
            self._remember(canonical.decode(body, KeyRecord))

    def pairs(self) -> list[KeyPair]:
        """The sub-accounts' keys, revoked ones too: what they have left is still theirs to return."""
        return [self.pair(record.id) for record in self._records.values()]

    def pair(self, key_id: str) -> KeyPair:
        pair = self._pairs.get(key_id)
        if pair is None:
            pair = self._pairs[key_id] = child(self._node, f"api-key/{key_id}")
        return pair

    async def create(self, name: str) -> tuple[str, ApiKeyView]:
        secret = PREFIX + urlsafe_b64encode(self._entropy.bytes(_SECRET_BYTES)).decode().rstrip("=")
        record = KeyRecord(
            id=self._entropy.bytes(8).hex(), name=name, secret=_digest(secret), created_ms=self._clock.now_ms()
        )
        await self._keep(record)
        return secret, self._view(record)

    async def revoke(self, key_id: str) -> ApiKeyView:
        """Raises NotFound."""
        record = replace(self._record(key_id), revoked=True)
        await self._keep(record)
        return self._view(record)

    def authenticate(self, secret: str) -> ApiKeyView:
        """Raises Unauthorised. Found by its digest, so nothing of the secret can be learnt from how long it takes."""
        record = self._by_secret.get(_digest(secret))
        if record is None:
            raise Unauthorised("this API key is not known here; check it, or ask the node's operator for one")
        if record.revoked:
            raise Unauthorised("this API key was revoked; ask the node's operator for another")
        return self._view(record)

    def view(self, key_id: str) -> ApiKeyView:
        """Raises NotFound."""
        return self._view(self._record(key_id))

    def views(self) -> Sequence[ApiKeyView]:
        return [self._view(record) for record in self._records.values()]

    def _record(self, key_id: str) -> KeyRecord:
        record = self._records.get(key_id)
        if record is None:
            raise NotFound(f"there is no API key {key_id}")
        return record

    async def _keep(self, record: KeyRecord) -> None:
        await self._store.write([Change(kind=KEY, key=record.id, body=canonical.encode(record))])
        self._remember(record)

    def _remember(self, record: KeyRecord) -> None:
        self._records[record.id] = record
        self._by_secret[record.secret] = record

    def _view(self, record: KeyRecord) -> ApiKeyView:
        return ApiKeyView(
            id=record.id,
            name=record.name,
            account=self.pair(record.id).account,
            created_ms=record.created_ms,
            revoked=record.revoked,
        )


def _digest(secret: str) -> Digest:
    return tagged("api-key/v1", secret.encode("utf-8", "surrogatepass"))
