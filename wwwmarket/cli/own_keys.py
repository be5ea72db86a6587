"""Who acts for an account: keys rotated, recovered, delegated to machines, by whoever holds them."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import msgspec
import typer

from wwwmarket.adapters.keystore import KeyStore
from wwwmarket.adapters.system import SystemEntropy
from wwwmarket.cli.client import GatewayClient
from wwwmarket.cli.options import GATEWAY, Gateway, Json, option, passphrase_of
from wwwmarket.cli.output import emit, say
from wwwmarket.crypto import canonical
from wwwmarket.crypto.signing import SEED_BYTES, KeyPair, sign, sign_entry, verify
from wwwmarket.domain.errors import Conflict, Malformed, Refusal, Unavailable
from wwwmarket.domain.identity import AccountId
from wwwmarket.domain.keys import Consent, Delegation, Guard, Keys, Revocation, Role, Rotation
from wwwmarket.domain.records import Body, Inclusion, Signed
from wwwmarket.node.keys import derived
from wwwmarket.node.service import AccountView

OWNER: Final = "-owner"
NEXT: Final = "-next"
_TRIES: Final = 3
"""A running node signs with the same key, and may be faster."""

_READ_S: Final = 10.0
_AGAIN_S: Final = 0.05

ROTATE: Final = """Put a new key in the place of the one that owns an account, which keeps its name and all it has.

Credits, offers, bonds and reputation stay; the replaced key signs nothing any more. For a node, restart it afterwards:
its own key stays its address between nodes, and "<name>-owner" signs for its account from then on. Its API keys go on.

\b
  wwwmarket keys rotate --data /srv/node               a node's account, and the accounts of its API keys
  wwwmarket keys backup --name node-owner --dir /srv/node/keys
"""

CONSENT: Final = """Let a fresh key act for an account, and print its signed consent.

On the machine that will sell for a provider, before its node has ever written to the ledger:

\b
  wwwmarket keys consent ACCOUNT --data /srv/provider > machine.json
  wwwmarket account delegate machine.json              where the account's key is
"""

GUARD: Final = """Name the key that can recover this account when its own is lost; or none, with --nobody.

Make that key with 'keys create', keep it somewhere else, and write its words on paper.

\b
  wwwmarket account guard 82cca6f5…
  wwwmarket account guard --nobody
"""

RECOVER: Final = """Give an account whose key is lost to a new key, by its recovery key.

The first run announces it. Three days later, in which the owner could object, the second one completes it. What the
account has and is known for stays. Recovery is for a lost key; against a thief who has it, only rotating first helps.

\b
  wwwmarket account recover ACCOUNT --recovery recovery --new node-owner --dir keys
"""

Data: TypeAlias = Annotated[
    Path | None, option("--data", "The node's data directory; else your user data directory.", metavar="DIR")
]
KeyName: TypeAlias = Annotated[str, option("--name", "Which key in its keys directory.", metavar="NAME")]


class Rotated(msgspec.Struct, frozen=True, kw_only=True):
    """What ``--json`` prints. ``also`` are sub-accounts that were rotated with it."""

    account: AccountId
    owner: AccountId
    index: int | None
    also: list[AccountId]


def rotate(*, data: Data = None, name: KeyName = "node", gateway: Gateway = GATEWAY, json: Json = False) -> None:
    where = _where(data)
    store, secret = KeyStore(where / "keys"), passphrase_of(where, name)
    root, owner = store.load(name, secret), _owner(store, name, secret)
    following = _next(store, name, secret)
    with GatewayClient(gateway) as client:
        account = _owned(client, owner, following)
        also = _rotate_sub_accounts(client, where, gateway, (root, owner), following)
        index = None
        if _keys(client, account).owner != following.account:
            body = Rotation(account=account, consent=_consent(following, account, "owner"))
            index = write_as(client, owner, body)
    store.promote(name + NEXT, name + OWNER)
    emit(Rotated(account=account, owner=following.account, index=index, also=also), json)
    say(
        f"Restart the node, then back the new key up: wwwmarket keys backup --name {name}{OWNER} --dir {where / 'keys'}"
    )


def consent(
    account: Annotated[str, typer.Argument(help="The account, as hex.")],
    *,
    role: Annotated[Role, option("--role", "What the key will be.")] = "machine",
    data: Data = None,
    name: KeyName = "node",
) -> None:
    where = _where(data)
    store, secret = KeyStore(where / "keys"), passphrase_of(where, name)
    if not store.path(name).exists():
        store.create(name, KeyPair(SystemEntropy().bytes(SEED_BYTES)), secret)
    key = store.load(name, secret)
    emit(msgspec.to_builtins(_consent(key, _account(account), role)), json=True)


def guard(  # noqa: PLR0913 - each says whose keys, or which
    recovery: Annotated[str | None, typer.Argument(metavar="[KEY]", help="The recovery key's account.")] = None,
    *,
    nobody: Annotated[bool, option("--nobody", "No key can recover it.")] = False,
    data: Data = None,
    name: KeyName = "node",
    gateway: Gateway = GATEWAY,
    json: Json = False,
) -> None:
    if (recovery is None) != nobody:
        raise typer.BadParameter("name the recovery key, or give --nobody", param_hint="KEY")
    body = Guard(recovery=None if recovery is None else _account(recovery))
    _write_for_account(body, data, name, gateway, json=json)


def delegate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What 'keys consent' printed.", exists=True)],
    *,
    data: Data = None,
    name: KeyName = "node",
    gateway: Gateway = GATEWAY,
    json: Json = False,
) -> None:
    """Let a machine sell for this account: it offers, asks, attests and settles, and spends nothing."""
    try:
        signed = msgspec.json.decode(file.read_bytes(), type=Signed[Consent])
    except msgspec.DecodeError as error:
        raise Malformed(f"{file} is no consent: {error}") from None
    verify(signed)
    _write_for_account(Delegation(consent=signed), data, name, gateway, json=json)


def revoke(
    key: Annotated[str, typer.Argument(help="The machine's key, as hex.")],
    *,
    data: Data = None,
    name: KeyName = "node",
    gateway: Gateway = GATEWAY,
    json: Json = False,
) -> None:
    """End a machine's key: from then on it sells for nobody."""
    _write_for_account(Revocation(key=_account(key)), data, name, gateway, json=json)


def recover(  # noqa: PLR0913 - each says whose keys, or which
    account: Annotated[str, typer.Argument(help="The account, as hex.")],
    *,
    recovery: Annotated[str, option("--recovery", "Name of the recovery key.", metavar="NAME")] = "recovery",
    new: Annotated[
        str, option("--new", "Name of the new key; made where there is none.", metavar="NAME")
    ] = "recovered",
    directory: Annotated[Path | None, option("--dir", "Where both keys are kept.", metavar="DIR")] = None,
    gateway: Gateway = GATEWAY,
    json: Json = False,
) -> None:
    store = KeyStore(directory)
    secret = passphrase_of(store.directory.parent, recovery) if store.directory.name == "keys" else None
    guardian, name = store.load(recovery, secret), _account(account)
    if not store.path(new).exists():
        store.create(new, KeyPair(SystemEntropy().bytes(SEED_BYTES)), secret)
    following = store.load(new, secret)
    with GatewayClient(gateway) as client:
        write_as(client, guardian, Rotation(account=name, consent=_consent(following, name, "owner")))
        keys = _keys(client, name)
    done = keys.owner == following.account
    emit(
        {"account": name, "owner": keys.owner, "done": done, "from_ms": None if done else keys.successor_from_ms}, json
    )
    if not done:
        say("Announced. Run it again once the ledger's time has passed from_ms, unless the owner objects.")


def write_as(client: GatewayClient, key: KeyPair, body: Body) -> int:
    """Sign the key's next entry and have it ordered; its index.

    Raises:
        Refusal: as the ledger refuses it.
    """
    for attempt in range(_TRIES):
        chain = client.get(f"/v1/accounts/{key.account}", AccountView)
        leaf = canonical.encode(sign_entry(key, seq=chain.next_seq, prev=chain.prev, body=body))
        try:
            answer: Signed[Inclusion] = client.request("POST", "/v1/entries", Signed[Inclusion], content=leaf)
        except Refusal as refusal:
            if refusal.reason != "chain" or attempt == _TRIES - 1:
                raise
        else:
            _wait_until_read(client, key.account, chain.next_seq)
            return answer.body.index
    raise AssertionError("the last try returns or raises")


def _wait_until_read(client: GatewayClient, account: AccountId, seq: int) -> None:
    """Until the gateway's own copy of the ledger has the entry: it may be behind the one that ordered it."""
    until_s = time.monotonic() + _READ_S
    while client.get(f"/v1/accounts/{account}", AccountView).next_seq <= seq:
        if time.monotonic() > until_s:
            raise Unavailable("the entry is ordered, and this gateway has not read it yet", retry_after_ms=1_000)
        time.sleep(_AGAIN_S)


def _write_for_account(body: Body, data: Path | None, name: str, gateway: str, *, json: bool) -> None:
    where = _where(data)
    key = _owner(KeyStore(where / "keys"), name, passphrase_of(where, name))
    with GatewayClient(gateway) as client:
        index = write_as(client, key, body)
    emit({"key": key.account, "entry": index}, json)


def _rotate_sub_accounts(
    client: GatewayClient, where: Path, gateway: str, before: Sequence[KeyPair], following: KeyPair
) -> list[AccountId]:
    """The accounts of a node's API keys; none where this is no node's data directory."""
    token = where / "admin.token"
    if not token.exists():
        return []
    from wwwmarket.gateway.keys import KeyList

    with GatewayClient(gateway, token.read_text().strip()) as admin:
        views = admin.get("/v1/keys", KeyList).data
    rotated = []
    for view in views:
        fresh = derived(following, view.id)
        owner = _keys(client, view.account).owner
        held = [key for key in (derived(root, view.id) for root in before) if key.account == owner]
        if owner != fresh.account and held:
            body = Rotation(account=view.account, consent=_consent(fresh, view.account, "owner"))
            write_as(client, held[0], body)
            rotated.append(view.account)
    return rotated


def _owned(client: GatewayClient, owner: KeyPair, following: KeyPair) -> AccountId:
    """The account that ``owner`` owns, or that ``following`` does since an earlier, interrupted run."""
    for key in (following, owner):
        account = client.get(f"/v1/accounts/{key.account}", AccountView).acts_for
        if account is not None and (key is owner or account != key.account):
            return account
    raise Conflict("the key was replaced on this ledger already, by one that is not here")


def _keys(client: GatewayClient, account: AccountId) -> Keys:
    keys = client.get(f"/v1/accounts/{account}", AccountView).keys
    if keys is None:
        raise Conflict("that gateway is of an older version")
    return keys


def _owner(store: KeyStore, name: str, secret: bytes | None) -> KeyPair:
    owner = name + OWNER
    return store.load(owner if store.path(owner).exists() else name, secret)


def _next(store: KeyStore, name: str, secret: bytes | None) -> KeyPair:
    """Made once, and kept until it is in its place: a run that was cut short goes on with the same key."""
    if not store.path(name + NEXT).exists():
        store.create(name + NEXT, KeyPair(SystemEntropy().bytes(SEED_BYTES)), secret)
    return store.load(name + NEXT, secret)


def _consent(key: KeyPair, account: AccountId, role: Role) -> Signed[Consent]:
    return sign(key, Consent(account=account, role=role)).signed


def _account(text: str) -> AccountId:
    try:
        return msgspec.convert(text, AccountId)
    except msgspec.ValidationError:
        raise typer.BadParameter(f"{text!r} is no account: 64 hexadecimal digits") from None


def _where(data: Path | None) -> Path:
    from wwwmarket.bootstrap import default_data

    return data or default_data("node")
