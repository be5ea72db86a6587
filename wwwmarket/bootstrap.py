"""The only place that knows everything: puts adapters under a node, and doors in front of it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

import httpx
import msgspec
from platformdirs import user_data_path

from wwwmarket.adapters.engines.opening import EngineTerms, Measure, OpenEngine, open_engines
from wwwmarket.adapters.evidence_files import EvidenceFolder
from wwwmarket.adapters.keystore import KeyStore, write_new
from wwwmarket.adapters.log_http import HttpFiles, HttpMirrors
from wwwmarket.adapters.orderers import open_orderer
from wwwmarket.adapters.storage import SqlStore
from wwwmarket.adapters.system import SystemClock, SystemEntropy
from wwwmarket.adapters.tokenizer_files import open_tokenizers
from wwwmarket.adapters.transport import IrohTransport
from wwwmarket.adapters.transport.datagrams import RelayLimits
from wwwmarket.adapters.transport.relay_host import UdpRelayHost
from wwwmarket.adapters.transport.tunnel import RelayTunnels
from wwwmarket.config import LOCAL, NodeConfig
from wwwmarket.crypto.derivation import child, derive_seed
from wwwmarket.crypto.digest import tagged
from wwwmarket.crypto.sealing import SealingPair
from wwwmarket.crypto.signing import KeyPair
from wwwmarket.dispatch.fitting import Fit
from wwwmarket.dispatch.prediction import CalibratedLatency, LearningModel, LearntLatency
from wwwmarket.dispatch.step_time import EngineLimits, limits_for, step_time_model
from wwwmarket.domain.committee import Committee
from wwwmarket.domain.errors import Conflict, Malformed, NotFound, Refusal, Unavailable
from wwwmarket.domain.model import EngineFingerprint, Model
from wwwmarket.domain.quantity import Prices, Slo
from wwwmarket.domain.records import Capacity, Genesis, Grant, NodeAddress, Offer, Parameters, Promise, Settlement
from wwwmarket.gateway.app import create_app
from wwwmarket.gateway.config import GatewayConfig
from wwwmarket.gateway.server import Server
from wwwmarket.ledger.note import VerifierKey
from wwwmarket.market import execution, settlement
from wwwmarket.market.admission import Admission
from wwwmarket.market.offer import Seller
from wwwmarket.market.policy import Policy
from wwwmarket.node.answers import Answers
from wwwmarket.node.desk import Desk
from wwwmarket.node.forecasting import Forecasting
from wwwmarket.node.node import Founding, Joining, Node, World
from wwwmarket.node.offering import Offering, with_validity
from wwwmarket.node.selling import Selling
from wwwmarket.node.service import NodeStatus
from wwwmarket.node.succeeding import stored_successions
from wwwmarket.ports.engine import Engine, EngineDescription, ServedModel
from wwwmarket.ports.store import Orderer, RecordStore
from wwwmarket.ports.tracing import NO_TRACES, Tracer
from wwwmarket.rules.registry import Registry
from wwwmarket.rules.succession import SUCCESSIONS_BYTES_MAX, Successions, read_successions

Relays: TypeAlias = Literal["auto", "always", "never"]
"""When a node has others forward to it: where a router stands before it, in any case, or not at all. One that is bound
to loopback never does."""

NODE_KEY: Final = "node"
ACCOUNT_KEY: Final = "node-owner"
_OPERATOR: Final = "operator"
_SEALING: Final = "sealing"
_PROMISED_PPM: Final = 950_000
"""The share of requests that an offer's promise speaks of: 95 of 100, as the command line says."""
_OPEN: Final = Policy()
_KV_TOKENS_PER_SEQUENCE: Final = 4_096
"""What an engine of unknown memory is taken to hold for each sequence on offer."""


_NOBODY: Final = Committee()
_NO_FEE: Final = Parameters()


@dataclass(frozen=True, kw_only=True)
class NodeSettings:
    """Where a node lives and which market it is part of. ``market`` None: it founds one named ``origin``.

    ``orderer`` and ``operator_key`` are for one of several sequencers of a log: where they find its order, and the file
    of the key that they share. None: this node orders alone, in its own database, by a key derived from its own.
    """

    data: Path
    market: str | None = None
    orderer: str | None = None
    operator_key: Path | None = None
    seed_orderer: bool = False
    """The orderer is empty or half full, and gets the log as this node has it."""
    store: str | None = None
    """Address of the node's own database; None: a file of SQLite in ``data``."""
    origin: str = "local.market"
    credits_micro: int = 1_000_000_000_000
    """What a founded market grants to its founder: all the credits there are, until a committee decrees more."""
    committee: Committee = _NOBODY
    """Whose mirrors make a founded market's history final."""
    parameters: Parameters = _NO_FEE
    host: str = "127.0.0.1"
    port: int = 0
    bind: str = "127.0.0.1:0"
    advertise: tuple[str, ...] = ()
    """Where other nodes find it (``host:port``), when they see another address than this machine does."""
    relay_for: int = 0
    """For how many nodes behind routers it forwards datagrams; none unless its operator opts in."""
    relay_ports: tuple[int, int] | None = None
    """First and last UDP port at which it does so; None: any."""
    relays: Relays = "auto"
    iroh_relay: str | None = None
    """URL of an iroh relay server, at which nodes that have the same one find direct paths to each other."""
    traces: bool = False
    """Whether spans go to an OpenTelemetry collector, configured by its own variables (``OTEL_…``)."""
    passphrase: bytes | None = None
    tokenizers: tuple[str, ...] = ()
    """By which answers are recounted: ``MODEL=FILE`` or ``MODEL=FILE@sha256:DIGEST``."""
    config: NodeConfig = LOCAL


@dataclass(frozen=True, kw_only=True)
class OfferSettings:
    """What a provider offers. Prices in micro-credits per million tokens."""

    engines: tuple[str, ...]
    """Base URLs, or ``embedded``: each an engine with the same model."""
    model: str | None
    prices: Prices
    slo: Slo
    sequences: int
    tokens_per_s: int
    policy: Policy = _OPEN
    bond_micro: int = 0
    precision: str | None = None
    api_key: str | None = None
    blind: bool = False
    priority: int | None = None
    """What the market's requests have in the engine's queue."""
    seed: int = 0


@dataclass(frozen=True)
class Running:
    """A node at work. ``gateway`` is its base address."""

    node: Node
    answers: Answers
    gateway: str
    admin_token: str


def default_data(name: str) -> Path:
    return user_data_path("wwwmarket") / name


@contextlib.asynccontextmanager
async def open_node(settings: NodeSettings) -> AsyncIterator[Running]:
    """A node with its gateway, from start to orderly end.

    Raises:
        Refusal: whatever keeps it from starting, with what to do about it.
    """
    async with contextlib.AsyncExitStack() as stack:
        key = load_or_create_key(settings.data, settings.passphrase)
        tokenizers = await asyncio.to_thread(open_tokenizers, settings.tokenizers)
        store = await asyncio.to_thread(SqlStore.open, settings.store or f"sqlite:///{settings.data / 'node.db'}")
        stack.push_async_callback(store.close)
        orderer = await _orderer(settings, key)
        if orderer is not None:
            stack.push_async_callback(orderer.close)
        mirrors = HttpMirrors()
        stack.push_async_callback(mirrors.close)
        transport = await IrohTransport.bind(
            key, _bind_address(settings), advertised=settings.advertise, iroh_relay=settings.iroh_relay
        )
        stack.push_async_callback(transport.close)
        tracer = _tracer(key.account, stack) if settings.traces else NO_TRACES
        relay_host = _relay_host(settings, transport)
        if relay_host is not None:
            stack.push_async_callback(relay_host.close)
        relayed = settings.relays != "never" and not transport.is_on_loopback
        _remember_sockets(settings.data, transport.address())
        token = _admin_token(settings.data)
        world = World(
            key=key,
            account_key=load_account_key(settings.data, settings.passphrase),
            transport=transport,
            records=store.records,
            ledger=store.ledger,
            clock=SystemClock(),
            entropy=SystemEntropy(),
            registry=Registry.load(),
            config=settings.config,
            admin_token=tagged("admin-token/v1", token.encode()),
            orderer=orderer,
            mirrors=mirrors,
            keep_evidence=EvidenceFolder(settings.data / "evidence").keep,
            tokenizers=tokenizers,
            tracer=tracer,
            relay_host=relay_host,
            tunnels=RelayTunnels(transport) if relayed else None,
            relayed_always=settings.relays == "always",
        )
        node = Node(world, await _part(settings, world))
        stack.push_async_callback(node.close)
        await node.start()
        answers = Answers(node)
        server = Server(
            create_app(answers, config=GatewayConfig()), settings.host, settings.port, config=GatewayConfig()
        )
        port = await server.start()
        stack.push_async_callback(server.stop)
        yield Running(node, answers, f"http://{settings.host}:{port}", token)


def _relay_host(settings: NodeSettings, transport: IrohTransport) -> UdpRelayHost | None:
    """Raises Conflict where nobody else could reach it."""
    if not settings.relay_for:
        return None
    if transport.is_on_loopback:
        raise Conflict("a node on loopback reaches nobody to relay for: give --bind an address that others can call")
    host = settings.bind.rpartition(":")[0]
    return UdpRelayHost(transport, host, settings.relay_ports, RelayLimits(holders_max=settings.relay_for))


def _tracer(node: str, stack: contextlib.AsyncExitStack) -> Tracer:
    """Raises Malformed: the extra is not installed."""
    try:
        from wwwmarket.adapters.tracing import OpenTelemetryTracer
    except ImportError:
        raise Malformed("traces need an extra: pip install 'wwwmarket[otel]'") from None
    tracer = OpenTelemetryTracer(node)
    stack.push_async_callback(asyncio.to_thread, tracer.close)
    return tracer


def load_or_create_key(data: Path, passphrase: bytes | None) -> KeyPair:
    """The node's key in its data directory; made at the first start."""
    keys = KeyStore(data / "keys")
    if not keys.path(NODE_KEY).exists():
        keys.create(NODE_KEY, KeyPair(SystemEntropy().bytes(32)), passphrase)
    return keys.load(NODE_KEY, passphrase)


def load_account_key(data: Path, passphrase: bytes | None) -> KeyPair | None:
    """What signs for the account, once that is another key than the node's: the last that ``keys rotate`` made."""
    keys = KeyStore(data / "keys")
    return keys.load(ACCOUNT_KEY, passphrase) if keys.path(ACCOUNT_KEY).exists() else None


async def _orderer(settings: NodeSettings, key: KeyPair) -> Orderer | None:
    """Raises Malformed, Unavailable; Conflict where a node that joins a market is told to order it."""
    if settings.orderer is None:
        return None
    if settings.market is not None:
        raise Conflict("a node that joins a market does not order it: give --orderer or --market, not both")
    # An address of etcd is opened on this loop; a database blocks while it is opened.
    if settings.orderer.startswith("etcd:"):
        return open_orderer(settings.orderer, origin=settings.origin, name=key.account)
    return await asyncio.to_thread(open_orderer, settings.orderer, origin=settings.origin, name=key.account)


def operator_of(key: KeyPair) -> KeyPair:
    """The key by which a node orders, derived from its own."""
    return child(key, _OPERATOR)


def _operator_key(settings: NodeSettings, key: KeyPair) -> KeyPair:
    """The derived one, or the one in a file. A log that moves to an orderer takes the derived one along in its file.

    Raises:
        NotFound, Forbidden, Unauthorised, Malformed: as ``KeyStore.load``.
    """
    derived, file = operator_of(key), settings.operator_key
    if file is None:
        return derived
    keys = KeyStore(file.parent)
    if settings.seed_orderer and not keys.path(file.stem).exists():
        keys.create(file.stem, derived, settings.passphrase)
    return keys.load(file.stem, settings.passphrase)


async def _part(settings: NodeSettings, world: World) -> Founding | Joining:
    if settings.market is not None:
        return await _join(settings.market, world.records)
    operator = _operator_key(settings, world.key)
    genesis = Genesis(
        origin=settings.origin,
        operator=operator.account,
        operator_address=world.transport.address(),
        contracts=world.registry.latest,
        grants=(Grant(account=world.key.account, amount_micro=settings.credits_micro),),
        at_ms=world.clock.now_ms(),
        committee=settings.committee,
        parameters=settings.parameters,
    )
    return Founding(operator, genesis, seed_orderer=settings.seed_orderer)


async def _join(market: str, records: RecordStore) -> Joining:
    """The market as its gateways say; where none answers, as a quorum of its mirrors said when its operator was gone.

    Raises:
        Unavailable, Malformed: as ``find_market``.
    """
    try:
        return await find_market(market)
    except Unavailable:
        known = await stored_successions(records)
        if not known:
            raise
        latest = known[-1].body
        return Joining(latest.operator_address, VerifierKey(name=latest.successor, account=latest.operator))


async def find_market(addresses: str) -> Joining:
    """Where the sequencers of a market are, and under which key its log is signed, from one of their gateways.

    ``addresses`` is one gateway's, or several with commas between them: the first that answers is believed.

    Raises:
        Unavailable: nobody answers there.
        Malformed: what answers is no node of a market, or does not order it.
    """
    refused: Refusal | None = None
    for address in addresses.split(","):
        try:
            base = address.strip().rstrip("/").removesuffix("/v1")
            status = await _status(base)
        except Unavailable as refusal:
            refused = refusal
        else:
            log = VerifierKey(name=status.origin, account=status.operator)
            return Joining(status.address, log, status.sequencers, await _successions(base))
    assert refused is not None, "splitting gives one address at least"
    raise refused


async def _status(base: str) -> NodeStatus:
    try:
        async with httpx.AsyncClient(timeout=10.0, trust_env=False) as client:
            answer = await client.get(f"{base}/v1/status")
            answer.raise_for_status()
            status = msgspec.json.decode(answer.content, type=NodeStatus)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unavailable(f"no market answers at {base}: {error}", retry_after_ms=1_000) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Malformed(f"what answers at {base} is not a node of a market") from None
    if not status.is_operator:
        raise Malformed(f"the node at {base} does not order its ledger: give the address of the node that does")
    return status


async def _successions(base: str) -> Successions:
    """How the log came to its operator, as its gateway says; nothing where it does not."""
    files = HttpFiles(f"{base}/ledger")
    try:
        return read_successions(await files.read("succession", bytes_max=SUCCESSIONS_BYTES_MAX))
    except NotFound:
        return ()
    finally:
        await files.close()


def _bind_address(settings: NodeSettings) -> str:
    """The same port as last time where none is asked for: offers on the ledger name it."""
    host, _, port = settings.bind.rpartition(":")
    known = settings.data / "sockets.json"
    if port != "0" or not known.exists():
        return settings.bind
    sockets: list[str] = json.loads(known.read_text())
    return next((socket for socket in sockets if socket.rpartition(":")[0] == host), settings.bind)


def _remember_sockets(data: Path, address: NodeAddress) -> None:
    (data / "sockets.json").write_text(json.dumps(list(address.sockets)))


def _admin_token(data: Path) -> str:
    path = data / "admin.token"
    if not path.exists():
        write_new(path, b"admin-" + SystemEntropy().bytes(32).hex().encode())
    if path.stat().st_mode & 0o077:
        raise Malformed(f"others can read {path}: run chmod 600 on it")
    return path.read_text().strip()


@contextlib.asynccontextmanager
async def open_engine(offer: OfferSettings, measure: Measure | None = None) -> AsyncIterator[OpenEngine]:
    """The engine behind an offer, checked: it answers, its state can be read, it serves the model.

    Raises:
        Unavailable: it does not answer, or its state cannot be read.
        NotFound: it does not serve the model.
        Conflict: there are several, and they are not alike.
    """
    capacity = Capacity(sequences=offer.sequences, tokens_per_s=offer.tokens_per_s)
    terms = EngineTerms(
        addresses=offer.engines,
        model=offer.model,
        sequences=offer.sequences,
        precision=offer.precision,
        api_key=offer.api_key,
        blind=offer.blind,
        priority=offer.priority,
        seed=offer.seed,
    )

    def guess(description: EngineDescription, served: ServedModel, fit: Fit | None) -> LearningModel:
        return _latency(description, served, offer.slo, capacity, fit)

    async with open_engines(terms, guess, measure) as opened:
        yield opened


async def begin_selling(  # noqa: PLR0913, PLR0917 - what an offer is made of
    node: Node,
    engine: Engine,
    description: EngineDescription,
    served: ServedModel,
    offer: OfferSettings,
    fit: Fit | None = None,
) -> Offering:
    """Put an engine behind a node and its offer on the ledger; ``fit`` is what was measured of the engine."""
    config, capacity = node.world.config, Capacity(sequences=offer.sequences, tokens_per_s=offer.tokens_per_s)
    sealing = SealingPair(derive_seed(node.world.key, _SEALING))
    model = _latency(description, served, offer.slo, capacity, fit)
    forecasting = Forecasting(engine, model, node.world.clock, poll_ms=config.engine_poll_ms)
    await forecasting.poll()
    node.run_beside(forecasting.poll_forever())
    fingerprint = EngineFingerprint(
        engine=description.engine,
        engine_version=description.version,
        model_revision=served.revision,
        precision=served.precision,
        gpu_class=description.gpu_class,
    )
    desk = _desk(node, engine, fingerprint, forecasting, sealing, offer)
    await node.sell(lambda _: Selling(desk))
    terms = _terms(node, served, offer, capacity, sealing)

    def now(from_ms: int) -> Offer:
        here = msgspec.structs.replace(terms, address=node.world.transport.address())
        return with_validity(here, from_ms, config.offer_validity_ms)

    offering = Offering(node, now)
    await offering.publish()
    node.run_beside(offering.renew_forever())
    node.run_beside(offering.follow_address())
    return offering


def _desk(  # noqa: PLR0913, PLR0917 - what a provider's half is made of
    node: Node,
    engine: Engine,
    fingerprint: EngineFingerprint,
    forecasting: Forecasting,
    sealing: SealingPair,
    offer: OfferSettings,
) -> Desk:
    world, state = node.world, node.replica.state
    auctions = world.config.auction
    seller = Seller(
        node.account_key,
        forecasting,
        offer.policy,
        Admission(),
        hold_ms=auctions.hold_ms,
        asked_per_bid=1 + auctions.neighbours_asked + auctions.reserves_asked,
    )
    return Desk(
        key=node.account_key,
        sealing=sealing,
        engine=engine,
        fingerprint=fingerprint,
        forecasting=forecasting,
        ledger=execution.Ledger(origin=node.log.name, operator=node.log.account),
        seller=seller,
        claims=settlement.Claims(client_first_ms=world.config.client_first_ms, retry_ms=world.config.claim_retry_ms),
        store=world.records,
        clock=world.clock,
        entropy=world.entropy,
        config=world.config,
        tracer=world.tracer,
        read_award=node.read_award,
        submit=lambda due: _submit(node, due),
        open_award=state.award,
        available_micro=lambda account: state.account(account).available_micro,
        next_seq=lambda account: state.chain_head(account).next_seq,
        account_of=state.account_of,
        owned_by=state.owned_by,
    )


def _terms(node: Node, served: ServedModel, offer: OfferSettings, capacity: Capacity, sealing: SealingPair) -> Offer:
    """The offer without its time."""
    return Offer(
        model=Model(
            name=served.name,
            revision=served.revision,
            precision=served.precision,
            context_tokens=served.context_tokens,
        ),
        prices=offer.prices,
        capacity=capacity,
        promise=Promise(slo=offer.slo, percentile_ppm=_PROMISED_PPM),
        accept_ppm=offer.policy.accept_ppm,
        bond_micro=offer.bond_micro,
        valid_from_ms=0,
        valid_until_ms=0,
        address=node.world.transport.address(),
        sealing_key=sealing.public,
    )


async def _submit(node: Node, due: Settlement) -> None:
    await node.author.settle(node.account, due)


def _latency(
    description: EngineDescription, served: ServedModel, slo: Slo, capacity: Capacity, fit: Fit | None
) -> LearningModel:
    """Begin with what was measured, else with the table where the engine is in it, else with the promise; all learn."""
    hardware = (description.gpu_class, served.name)
    slots = description.sequences_max or capacity.sequences
    kv_tokens_max = description.kv_tokens_max or max(
        served.context_tokens, _KV_TOKENS_PER_SEQUENCE * capacity.sequences
    )
    limits = EngineLimits(kv_tokens_max=kv_tokens_max, sequences_max=slots, batch_tokens_max=max(2048, slots))
    if fit is not None:
        return fit.latency(limits)
    try:
        table = step_time_model(*hardware, precision=served.precision)
        known = limits_for(*hardware, precision=served.precision, sequences_max=min(capacity.sequences, slots))
    except Refusal:
        return LearntLatency.from_promise(slo, limits)
    return CalibratedLatency(table=table, limits=known)
