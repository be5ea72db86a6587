"""Puts a mirror together: its keys, the log it is pinned to, its database and its door."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from wwwmarket.adapters.evidence_files import EvidenceFolder
from wwwmarket.adapters.keystore import KeyStore, write_new
from wwwmarket.adapters.log_http import AnyFiles, HttpFiles, find_prefixes
from wwwmarket.adapters.storage import SqlStore, Witness
from wwwmarket.adapters.system import SystemClock, SystemEntropy
from wwwmarket.config import MirrorConfig
from wwwmarket.crypto.derivation import child
from wwwmarket.crypto.signing import KeyPair, certify
from wwwmarket.domain.committee import Member
from wwwmarket.domain.errors import Conflict, Malformed, NotFound, Unavailable
from wwwmarket.domain.records import Certified, Succession
from wwwmarket.gateway.mirror import CONFIG, create_mirror_app
from wwwmarket.gateway.server import Server
from wwwmarket.ledger.note import Cosigner, VerifierKey, parse_verifier_key
from wwwmarket.mirror.driver import Mirroring
from wwwmarket.mirror.machine import Mirror
from wwwmarket.ports.log_files import LogFiles
from wwwmarket.rules.registry import Registry
from wwwmarket.rules.succession import SUCCESSIONS_BYTES_MAX, Successions, read_successions

MIRROR_KEY: Final = "mirror"
_COSIGNER: Final = "cosigner"
"""A key of its own, since a cosigner's key signs nothing else (C2SP tlog-cosignature); the same backup restores it."""
_MEMBER: Final = "member.json"
_LOG: Final = "log.vkey"
_SIGNED: Final = "cosigned"
"""Names the file ``cosigned.promised``, which outlives the database: it tells when what was signed is lost."""
_DEFAULT: Final = MirrorConfig()


@dataclass(frozen=True, kw_only=True)
class MirrorSettings:
    """``log`` is the address of the log's node, or several with commas between them; ``vkey`` pins its key, which else
    is believed at the first start.
    """

    data: Path
    log: str
    store: str | None = None
    """Address of its database; None: a file of SQLite in ``data``."""
    vkey: str | None = None
    host: str = "127.0.0.1"
    port: int = 0
    name: str | None = None
    url: str | None = None
    passphrase: bytes | None = None
    config: MirrorConfig = _DEFAULT


class NoFiles:
    """Implements ``ports.log_files.LogFiles`` for a mirror that does not run."""

    async def read(self, path: str, *, bytes_max: int) -> bytes:  # noqa: ARG002 - the port's
        raise Unavailable(f"{path} is not read now", retry_after_ms=1_000)


class Peers:
    """The files of other mirrors, each under one session."""

    def __init__(self) -> None:
        self._known: dict[str, HttpFiles] = {}

    def files(self, url: str) -> HttpFiles:
        prefix = f"{url.rstrip('/')}/ledger"
        if prefix not in self._known:
            self._known[prefix] = HttpFiles(prefix)
        return self._known[prefix]

    async def close(self) -> None:
        for files in self._known.values():
            await files.close()


@dataclass(frozen=True)
class RunningMirror:
    """A mirror at work: ``door`` is its base address, ``working`` raises what broke it."""

    mirroring: Mirroring
    member: Member
    door: str
    working: asyncio.Task[None]


def load_member(data: Path) -> Member:
    """What a committee knows of the mirror in ``data``. Raises NotFound, Malformed."""
    try:
        return msgspec.json.decode((data / _MEMBER).read_bytes(), type=Member)
    except FileNotFoundError:
        raise NotFound(f"there is no mirror in {data}: make one with 'wwwmarket mirror init'") from None
    except msgspec.DecodeError:
        raise Malformed(f"{data / _MEMBER} is damaged: remove it and run 'wwwmarket mirror init' again") from None


def make_member(data: Path, name: str | None, url: str, passphrase: bytes | None) -> Member:
    """The mirror in ``data`` under that name and address; its key is made where there is none.

    Raises:
        Malformed: a name or address that no committee can hold.
    """
    key = mirror_key(data, passphrase, create=True)
    fields = {
        "name": name or f"mirror-{key.account[:12]}",
        "account": key.account,
        "cosigner": child(key, _COSIGNER).account,
        "url": url,
    }
    try:
        member = msgspec.convert(fields, Member)
    except msgspec.ValidationError as error:
        raise Malformed(f"no committee could hold this mirror: {error}") from None
    (data / _MEMBER).write_bytes(msgspec.json.format(msgspec.json.encode(member), indent=2) + b"\n")
    return member


def mirror_key(data: Path, passphrase: bytes | None, *, create: bool = False) -> KeyPair:
    """The key of the mirror in ``data``. Raises NotFound, Unauthorised."""
    keys = KeyStore(data / "keys")
    if create and not keys.path(MIRROR_KEY).exists():
        keys.create(MIRROR_KEY, KeyPair(SystemEntropy().bytes(32)), passphrase)
    return keys.load(MIRROR_KEY, passphrase)


@contextlib.asynccontextmanager
async def open_mirror(settings: MirrorSettings) -> AsyncIterator[RunningMirror]:
    """A mirror with its door, from start to orderly end.

    Raises:
        Refusal: whatever keeps it from starting, with what to do about it.
    """
    async with contextlib.AsyncExitStack() as stack:
        url = settings.store or f"sqlite:///{settings.data / 'mirror.db'}"
        store = await asyncio.to_thread(SqlStore.open, url)
        stack.push_async_callback(store.close)
        key = mirror_key(settings.data, settings.passphrase, create=True)
        name = settings.name or _name_of(settings.data, key)
        prefixes, log, now = await _find_log(settings)
        servers = [HttpFiles(prefix) for prefix in prefixes]
        for each in servers:
            stack.push_async_callback(each.close)
        signed = Witness.open(settings.data / _SIGNED)
        stack.callback(signed.close)
        peers = Peers()
        stack.push_async_callback(peers.close)
        cosigner = Cosigner(name, child(key, _COSIGNER))
        mirroring = await _take_up(settings, store, signed, log, cosigner, AnyFiles(servers), now, peers.files)
        working = asyncio.create_task(mirroring.run())
        stack.push_async_callback(_stop, working)
        server = Server(create_mirror_app(mirroring), settings.host, settings.port, config=CONFIG)
        port = await server.start()
        stack.push_async_callback(server.stop)
        door = f"http://{settings.host}:{port}"
        member = make_member(settings.data, name, settings.url or _url_of(settings.data, door), settings.passphrase)
        yield RunningMirror(mirroring, member, door, working)


def _name_of(data: Path, key: KeyPair) -> str:
    try:
        return load_member(data).name
    except NotFound:
        return f"mirror-{key.account[:12]}"


def _url_of(data: Path, door: str) -> str:
    try:
        return load_member(data).url
    except NotFound:
        return door


async def _find_log(settings: MirrorSettings) -> tuple[tuple[str, ...], VerifierKey, VerifierKey]:
    """Where its files are, the key that was pinned at the first start for ever, and the key that it says it has now.

    Raises:
        Conflict: the log there has another key than was asked for.
        Unavailable: nobody answers, and the key is not known yet.
    """
    pinned = settings.data / _LOG
    known = pinned.read_text().strip() if pinned.exists() else None
    prefixes, text = await find_prefixes(settings.log, known or settings.vkey)
    if known is None:
        expected = settings.vkey or text
        if text != expected:
            raise Conflict(f"the log at {settings.log} has the key {text}, and this mirror is of {expected}")
        write_new(pinned, f"{text}\n".encode())
    return prefixes, parse_verifier_key(known or text), parse_verifier_key(text)


async def _take_up(  # noqa: PLR0913, PLR0917 - what a mirror stands on
    settings: MirrorSettings,
    store: SqlStore,
    signed: Witness,
    log: VerifierKey,
    cosigner: Cosigner,
    files: LogFiles,
    now: VerifierKey | None,
    peer: Callable[[str], LogFiles] | None = None,
) -> Mirroring:
    """A mirror over what is stored, that follows the log through its changes of hands to the key that it has ``now``.

    Raises:
        Conflict: it is another log, as far as a quorum of the committee has said.
    """
    evidence = EvidenceFolder(settings.data / "evidence")
    told: Successions = ()
    while True:
        mirror = Mirror(log, cosigner, Registry.load(), settings.config)
        mirroring = Mirroring(
            mirror, files, store.ledger, store.records, SystemClock(), settings.config, evidence.keep, signed, peer
        )
        await mirroring.start()
        if not await mirroring.follow(told):
            continue
        if now in {None, mirror.log} or (not told and now == log):
            return mirroring
        if told:
            raise Conflict(f"{settings.data} holds another log: give each log's mirror a folder of its own")
        told = await _read_successions(files)
        if not told:
            raise Conflict(f"the log at {settings.log} has another key than this mirror's, which is {log.text}")


async def _read_successions(files: LogFiles) -> Successions:
    try:
        return read_successions(await files.read("succession", bytes_max=SUCCESSIONS_BYTES_MAX))
    except NotFound:
        return ()


async def swear(
    data: Path, passphrase: bytes | None, succession: Succession, address: str | None = None
) -> Certified[Succession]:
    """The signature of the mirror in ``data``, which must not run, on to whom its log goes; it is bound to it for ever.

    Raises:
        Conflict: it runs, or holds something else, or has sworn to another successor (see ``mirror.oaths``).
    """
    key = mirror_key(data, passphrase)
    store = await asyncio.to_thread(SqlStore.open, address or f"sqlite:///{data / 'mirror.db'}")
    signed = Witness.open(data / _SIGNED)
    try:
        log = parse_verifier_key((data / _LOG).read_text().strip())
        settings = MirrorSettings(data=data, log="", passphrase=passphrase)
        cosigner = Cosigner(load_member(data).name, child(key, _COSIGNER))
        mirroring = await _take_up(settings, store, signed, log, cosigner, NoFiles(), None)
        await mirroring.swear(succession)
    finally:
        signed.close()
        await store.close()
    return Certified(body=succession, signatures=(certify(key, succession),))


async def _stop(working: asyncio.Task[None]) -> None:
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working
