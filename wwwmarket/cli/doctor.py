"""``wwwmarket doctor``: what could keep this machine from earning, each thing looked at by itself, with what to do."""

import asyncio
import contextlib
import shutil
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import httpx
import msgspec
import typer
from msgspec.structs import replace
from packaging.version import InvalidVersion, Version

from wwwmarket import __version__
from wwwmarket.adapters.keystore import KeyStore
from wwwmarket.cli.options import Data, Json, option
from wwwmarket.cli.output import emit
from wwwmarket.cli.serving import Serving, find_running
from wwwmarket.domain.errors import Malformed, NotFound, Refusal, Unavailable
from wwwmarket.domain.records import NodeAddress
from wwwmarket.node.service import NodeStatus
from wwwmarket.ports.clock import Clock

Verdict: TypeAlias = Literal["ok", "warning", "fault", "not looked at"]

CLOCK_WARNING_MS: Final = 5_000
"""Bids expire after 30 s and ledger time lags by up to 5 s: beyond this, some are already too late."""
CLOCK_FAULT_MS: Final = 20_000
DISK_FAULT_BYTES: Final = 512 * 1024**2
"""A day of a busy ledger; a node whose disk is full stops."""
DISK_WARNING_BYTES: Final = 4 * 1024**3
LAG_WARNING_ENTRIES: Final = 2_000
"""Seconds of a busy ledger; a replica further behind refuses awards whose offers it has not seen."""
PRIVATE: Final = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))
TIMEOUT_S: Final = 10.0
DIAL_TIMEOUT_MS: Final = 5_000


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at; ``advice`` is what to do about it, empty where there is nothing to do."""

    check: str
    verdict: Verdict
    says: str
    advice: str = ""


@dataclass(frozen=True)
class Patient:
    """What is looked at. ``serving`` is what runs with ``data``, ``status`` and ``market_status`` what both say."""

    data: Path
    market: str | None
    engine: str | None
    model: str | None
    serving: Serving | None
    status: NodeStatus | None
    market_status: NodeStatus | Refusal | None
    market_offset_ms: int | None
    clock: Clock


def doctor(
    *,
    data: Data = None,
    market: Annotated[str | None, option("--market", "Gateway of the market's node.", metavar="URL")] = None,
    engine: Annotated[str | None, option("--engine", "Base address of your engine.", metavar="URL")] = None,
    model: Annotated[str | None, option("--model", "Which of the engine's models you sell.")] = None,
    json: Json = False,
) -> None:
    """Look for what could keep a provider from earning, and say what to do about each thing.

    Clock, key and backup, disk, version, the market, this node, how others reach it, its ledger, its engine. It changes
    nothing. Exit code 0 when there is no fault, 1 when there is one.

    \b
      wwwmarket doctor --market http://10.0.0.5:8080 --engine http://127.0.0.1:8000 --model qwen3-8b
      wwwmarket doctor --data /srv/provider --json
    """  # noqa: D301 - \b keeps the examples' lines
    from wwwmarket.bootstrap import default_data

    findings = asyncio.run(_examine(data or default_data("provider"), market, engine, model))
    emit(findings if json else [_row(finding) for finding in findings], json)
    if any(finding.verdict == "fault" for finding in findings):
        raise typer.Exit(1)


async def _examine(data: Path, market: str | None, engine: str | None, model: str | None) -> list[Finding]:
    from wwwmarket.adapters.system import SystemClock

    serving = None
    with contextlib.suppress(NotFound, Malformed):
        serving = find_running(data)
    clock = SystemClock()
    status, _ = await _status(serving.gateway, clock) if serving else (None, None)
    told, offset_ms = await _status(market, clock) if market else (None, None)
    patient = Patient(
        data=data,
        market=market,
        engine=engine,
        model=model,
        serving=serving,
        status=status if isinstance(status, NodeStatus) else None,
        market_status=told,
        market_offset_ms=offset_ms,
        clock=clock,
    )
    return [await look(patient) for look in CHECKS.values()]


async def _status(address: str, clock: Clock) -> tuple[NodeStatus | Refusal, int | None]:
    """What a gateway says of itself, and by how much its clock is ahead of ours (half a round trip aside)."""
    base = address.rstrip("/").removesuffix("/v1")
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as http:
            asked_ms = clock.now_ms()
            answer = await http.get(f"{base}/v1/status")
            middle_ms = (asked_ms + clock.now_ms()) // 2
            answer.raise_for_status()
            status = msgspec.json.decode(answer.content, type=NodeStatus)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Unavailable(f"nothing answers at {base}: {error}", retry_after_ms=1_000), None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Malformed(f"what answers at {base} is not a node of this version"), None
    return status, _offset_ms(answer.headers, middle_ms)


def _offset_ms(headers: Mapping[str, str], at_ms: int) -> int | None:
    """From the Date header (RFC 9110, section 6.6.1), whose second has begun: half a second is added."""
    try:
        told = parsedate_to_datetime(headers["date"])
    except (KeyError, ValueError):
        return None
    return round(told.timestamp() * 1_000) + 500 - at_ms


async def _clock(patient: Patient) -> Finding:
    offset_ms = patient.market_offset_ms
    if offset_ms is None:
        return _unseen("clock", "give --market: its gateway's clock is compared with this one")
    ahead = timedelta(milliseconds=abs(offset_ms)).total_seconds()
    says = f"this clock is {ahead:.1f} s {'behind' if offset_ms > 0 else 'ahead of'} the market's"
    advice = "set the clock by NTP (timedatectl set-ntp true): bids and offers expire by it"
    if abs(offset_ms) >= CLOCK_FAULT_MS:
        return Finding(check="clock", verdict="fault", says=says, advice=advice)
    if abs(offset_ms) >= CLOCK_WARNING_MS:
        return Finding(check="clock", verdict="warning", says=says, advice=advice)
    return Finding(check="clock", verdict="ok", says="agrees with the market's to a few seconds")


async def _key(patient: Patient) -> Finding:
    from wwwmarket.bootstrap import NODE_KEY

    keys = KeyStore(patient.data / "keys")
    path = keys.path(NODE_KEY)
    if not path.exists():
        return _unseen("key", f"there is no key in {patient.data} yet: joining makes one")
    if path.stat().st_mode & 0o077:
        return Finding(check="key", verdict="fault", says=f"others can read {path}", advice=f"chmod 600 {path}")
    if keys.backup_of(NODE_KEY) is None:
        return Finding(
            check="key",
            verdict="fault",
            says="no backup of this key exists, and a lost key is a lost account",
            advice=f"wwwmarket keys backup --name {NODE_KEY} --dir {keys.directory.absolute()}",
        )
    return Finding(check="key", verdict="ok", says="only you can read it, and a backup was made")


async def _disk(patient: Patient) -> Finding:
    place = next(folder for folder in (patient.data, *patient.data.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    says = f"{free / 1024**3:.1f} GiB are free where {patient.data} is"
    advice = "make room, or move the data to a larger disk with --data: a node whose disk is full stops"
    if free < DISK_FAULT_BYTES:
        return Finding(check="disk", verdict="fault", says=says, advice=advice)
    if free < DISK_WARNING_BYTES:
        return Finding(check="disk", verdict="warning", says=says, advice=advice)
    return Finding(check="disk", verdict="ok", says=says)


async def _market(patient: Patient) -> Finding:
    match patient.market_status:
        case None:
            return _unseen("market", "give --market")
        case Refusal() as refusal:
            advice = "check the address and that its node runs; a firewall between must let its TCP port through"
            return Finding(check="market", verdict="fault", says=refusal.message, advice=advice)
        case status:
            return Finding(check="market", verdict="ok", says=f"{status.origin}, {status.offers} offers")


async def _version(patient: Patient) -> Finding:
    if not isinstance(patient.market_status, NodeStatus):
        return _unseen("version", "give --market: its version is compared with this one")
    theirs = patient.market_status.version
    try:
        older = Version(__version__) < Version(theirs)
    except InvalidVersion:
        older = False
    if older:
        return Finding(
            check="version",
            verdict="fault",
            says=f"this is {__version__}, and the market runs {theirs}",
            advice="pip install --upgrade wwwmarket: contracts that this version lacks cannot be followed",
        )
    return Finding(check="version", verdict="ok", says=f"this is {__version__}, the market runs {theirs}")


async def _node(patient: Patient) -> Finding:
    if patient.serving is None:
        return Finding(
            check="node",
            verdict="warning",
            says=f"nothing serves with the data in {patient.data}",
            advice="wwwmarket provider join --help",
        )
    if patient.status is None:
        return Finding(
            check="node",
            verdict="fault",
            says=f"the node runs, and its gateway at {patient.serving.gateway} does not answer",
            advice="look at its log; restart it",
        )
    if patient.status.draining:
        return Finding(check="node", verdict="warning", says="it is leaving", advice="join again once it has left")
    return Finding(check="node", verdict="ok", says=f"serves, {patient.status.peers} peers")


async def _reach(patient: Patient) -> Finding:
    """Dialled are the sockets that are not this machine's own, where it names such: a relay's, or a router's."""
    status = patient.status
    if status is None:
        return _unseen("reachability", "nothing runs here")
    elsewhere = tuple(told for told in status.address.sockets if not _is_ours(told))
    dialled = replace(status.address, sockets=elsewhere or status.address.sockets)
    sockets = ", ".join(dialled.sockets) or "none"
    if not await _answers_dial(dialled):
        return Finding(
            check="reachability",
            verdict="fault",
            says=f"nobody answers at the UDP address that others are told: {sockets}",
            advice=(
                "open that UDP port in the firewall, or join with --bind or --advertise on an address that others can "
                "reach; behind a router join with --bind 0.0.0.0:0, and nodes that relay are found"
            ),
        )
    if status.relays:
        return Finding(
            check="reachability", verdict="ok", says=f"answers through {len(status.relays)} relays: {sockets}"
        )
    market = patient.market_status
    if not elsewhere and isinstance(market, NodeStatus) and is_apart(dialled.sockets, market.address.sockets):
        return Finding(
            check="reachability",
            verdict="warning",
            says=f"only addresses of a private network are told to others, and the market is on another: {sockets}",
            advice=(
                "if a router stands between, join with --bind 0.0.0.0:0 and without --relays never, ask the market for "
                "a node that relays, or forward a UDP port and name it by --advertise"
            ),
        )
    return Finding(check="reachability", verdict="ok", says=f"its UDP address answers: {sockets}")


def _is_ours(address: str) -> bool:
    """Whether a socket's host is one of this machine's own addresses."""
    host = address.rpartition(":")[0].strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def is_apart(told: Sequence[str], market: Sequence[str]) -> bool:
    """Whether all sockets of a node are private ones (RFC 1918), none of them in a network of 256 with the market's."""
    own = [address for address in map(_ipv4, told) if address is not None]
    near = {_network(address) for address in map(_ipv4, market) if address is not None}
    private = all(any(address in network for network in PRIVATE) for address in own)
    return bool(own) and private and near.isdisjoint(map(_network, own))


def _ipv4(text: str) -> IPv4Address | None:
    try:
        return IPv4Address(text.rpartition(":")[0])
    except AddressValueError:
        return None


def _network(address: IPv4Address) -> IPv4Network:
    return IPv4Network((address, 24), strict=False)


async def _answers_dial(address: NodeAddress) -> bool:
    """Dial as a stranger would, under a key of the moment. Any answer will do: strangers' messages are refused."""
    from wwwmarket.adapters.system import SystemEntropy
    from wwwmarket.adapters.transport import IrohTransport
    from wwwmarket.crypto.signing import SEED_BYTES, KeyPair

    loopback = all(told.startswith(("127.", "[::1]")) for told in address.sockets)
    stranger = KeyPair(SystemEntropy().bytes(SEED_BYTES))
    transport = await IrohTransport.bind(stranger, "127.0.0.1:0" if loopback else "0.0.0.0:0")
    try:
        await transport.request(address, b"{}", timeout_ms=DIAL_TIMEOUT_MS)
    except Refusal:
        return False
    finally:
        await transport.close()
    return True


async def _ledger(patient: Patient) -> Finding:
    if patient.status is None or not isinstance(patient.market_status, NodeStatus):
        return _unseen("ledger", "needs a node that runs here, and --market")
    if patient.status.origin != patient.market_status.origin:
        return Finding(
            check="ledger",
            verdict="fault",
            says=f"this node follows {patient.status.origin}, and --market is {patient.market_status.origin}",
            advice="one data directory is for one market: give --data another, or --market the right address",
        )
    lag = patient.market_status.ledger_size - patient.status.ledger_size
    if lag > LAG_WARNING_ENTRIES:
        return Finding(
            check="ledger",
            verdict="warning",
            says=f"this replica is {lag:,} entries behind",
            advice="wait while it catches up; if it does not, the CPU or the line is too slow for this ledger",
        )
    return Finding(check="ledger", verdict="ok", says=f"{patient.status.ledger_size:,} entries, {max(lag, 0):,} behind")


async def _engine(patient: Patient) -> Finding:
    if patient.engine is None:
        return _unseen("engine", "give --engine")
    from wwwmarket.adapters.engines.openai_compatible import OpenAiEngine

    engine = OpenAiEngine(patient.engine, None)
    try:
        description = await engine.describe()
        await engine.state()
    except Refusal as refusal:
        return Finding(
            check="engine",
            verdict="fault",
            says=refusal.message,
            advice="start the engine, or give its address; one without metrics joins with --blind",
        )
    finally:
        await engine.close()
    served = [model.name for model in description.models]
    if patient.model is not None and patient.model not in served:
        return Finding(
            check="engine",
            verdict="fault",
            says=f"it does not serve {patient.model}; it serves {', '.join(served)}",
            advice=f"join with --model {served[0]}",
        )
    says = f"{description.engine} {description.version} serves {', '.join(served)}"
    return Finding(check="engine", verdict="ok", says=says)


CHECKS: Final[dict[str, Callable[[Patient], Awaitable[Finding]]]] = {
    "clock": _clock,
    "key": _key,
    "disk": _disk,
    "market": _market,
    "version": _version,
    "node": _node,
    "reachability": _reach,
    "ledger": _ledger,
    "engine": _engine,
}


def _unseen(check: str, says: str) -> Finding:
    return Finding(check=check, verdict="not looked at", says=says)


def _row(finding: Finding) -> dict[str, Any]:
    return dict(_fields(finding))


def _fields(finding: Finding) -> Iterator[tuple[str, str]]:
    yield "check", finding.check
    yield "verdict", finding.verdict
    yield "says", finding.says
    yield "what to do", finding.advice
