"""API keys: each is a sub-account on the ledger, whose key is derived from the node's, and whose balance is its budget.

A secret is shown once and kept hashed. Nothing is spent but by entries that the sub-account signs.
"""

import asyncio
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import Meta
from msgspec.structs import replace

from wwwmarket.crypto import canonical
from wwwmarket.crypto.derivation import child
from wwwmarket.crypto.digest import tagged
from wwwmarket.crypto.signing import KeyPair
from wwwmarket.domain.errors import Conflict, NotFound, Unauthorised
from wwwmarket.domain.identity import AccountId, Digest
from wwwmarket.domain.quantity import Count, Millis
from wwwmarket.domain.shape import Value
from wwwmarket.market.allowance import NO_LIMITS, Allowance, Limits
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
    limits: Limits = NO_LIMITS
    period: Count | None = None
    """The latest period whose budget was filled up."""
    account: AccountId | None = None
    """Its sub-account; None: that of the key derived from the node's own."""


class Keyring:
    def __init__(self, node: KeyPair, signer: KeyPair, store: RecordStore, clock: Clock, entropy: Entropy) -> None:
        """Sub-accounts are named after keys derived from ``node``, or from the ``signer`` under which they were made;
        after a rotation those derived from ``signer`` own them.
        """
        self._node = node
        self._signer = signer
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._records: dict[str, KeyRecord] = {}
        self._by_secret: dict[Digest, KeyRecord] = {}
        self._ids: dict[AccountId, str] = {}
        self._accounts: dict[str, AccountId] = {}
        self._allowances: dict[str, Allowance] = {}
        self._revoked: dict[str, None] = {}
        self._turn = asyncio.Lock()
        """Of who changes a record: what is read, changed and written must not change in between."""

    async def load(self) -> None:
        for _, body in await self._store.scan(KEY):
            self._remember(canonical.decode(body, KeyRecord))

    def pairs(self, key_id: str | None = None) -> list[KeyPair]:
        """The sub-accounts' keys, or those of one; revoked ones too: what they have left is still theirs to return.

        Which of an account's keys owns it, the ledger says.
        """
        ids = list(self._records) if key_id is None else [key_id]
        roots = {root.account: root for root in (self._node, self._signer)}
        return [derived(root, one) for one in ids for root in roots.values()]

    async def create(self, name: str, limits: Limits) -> tuple[str, ApiKeyView]:
        secret = self._secret()
        record = KeyRecord(
            id=self._entropy.bytes(8).hex(),
            name=name,
            secret=_digest(secret),
            created_ms=self._clock.now_ms(),
            limits=limits,
        )
        record = replace(record, account=derived(self._signer, record.id).account)
        await self._keep(record)
        return secret, self._view(record)

    async def rotate(self, key_id: str) -> tuple[str, ApiKeyView]:
        """Raises NotFound, Conflict."""
        secret = self._secret()
        async with self._turn:
            record = replace(self._live(key_id), secret=_digest(secret))
            await self._keep(record)
        return secret, self._view(record)

    async def limit(self, key_id: str, limits: Limits) -> ApiKeyView:
        """Its buckets begin empty. Raises NotFound, Conflict."""
        async with self._turn:
            record = replace(self._live(key_id), limits=limits)
            await self._keep(record)
        self._allowances.pop(key_id, None)
        return self._view(record)

    async def begin_period(self, key_id: str, number: int) -> bool:
        """Whether this period's budget is to be filled up now: true once for each, also over restarts."""
        async with self._turn:
            record = self._record(key_id)
            if record.period is not None and record.period >= number:
                return False
            await self._keep(replace(record, period=number))
        return True

    def allowance(self, key_id: str) -> Allowance:
        """Raises NotFound."""
        limits = self._record(key_id).limits
        return self._allowances.setdefault(key_id, Allowance(limits))

    def id_of(self, account: AccountId) -> str | None:
        """The key whose sub-account this is."""
        return self._ids.get(account)

    async def revoke(self, key_id: str) -> ApiKeyView:
        """Raises NotFound."""
        async with self._turn:
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

    def revoked(self) -> Sequence[ApiKeyView]:
        return [self._view(self._records[key_id]) for key_id in self._revoked]

    def views(self) -> Sequence[ApiKeyView]:
        return [self._view(record) for record in self._records.values()]

    def _live(self, key_id: str) -> KeyRecord:
        record = self._record(key_id)
        if record.revoked:
            raise Conflict("this API key was revoked; create another", param="id")
        return record

    def _record(self, key_id: str) -> KeyRecord:
        record = self._records.get(key_id)
        if record is None:
            raise NotFound(f"there is no API key {key_id}")
        return record

    async def _keep(self, record: KeyRecord) -> None:
        await self._store.write([Change(kind=KEY, key=record.id, body=canonical.encode(record))])
        self._remember(record)

    def _account(self, record: KeyRecord) -> AccountId:
        account = self._accounts.get(record.id)
        if account is None:
            account = self._accounts[record.id] = record.account or derived(self._node, record.id).account
        return account

    def _secret(self) -> str:
        return PREFIX + urlsafe_b64encode(self._entropy.bytes(_SECRET_BYTES)).decode().rstrip("=")

    def _remember(self, record: KeyRecord) -> None:
        before = self._records.get(record.id)
        if before is not None:
            self._by_secret.pop(before.secret, None)
        self._records[record.id] = record
        if record.revoked:
            self._revoked[record.id] = None
        self._ids[self._account(record)] = record.id
        self._by_secret[record.secret] = record

    def _view(self, record: KeyRecord) -> ApiKeyView:
        return ApiKeyView(
            id=record.id,
            name=record.name,
            account=self._account(record),
            created_ms=record.created_ms,
            revoked=record.revoked,
            limits=record.limits,
        )


def derived(root: KeyPair, key_id: str) -> KeyPair:
    """The key of an API key's sub-account."""
    return child(root, f"api-key/{key_id}")


def _digest(secret: str) -> Digest:
    return tagged("api-key/v1", secret.encode("utf-8", "surrogatepass"))
