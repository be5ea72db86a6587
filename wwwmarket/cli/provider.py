"""``wwwmarket provider``: sell an engine's idle capacity, see how it goes, leave in order."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace as replaced
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from msgspec.structs import replace

from wwwmarket.cli.amounts import credits_text, parse_credits
from wwwmarket.cli.client import GatewayClient
from wwwmarket.cli.earnings import earnings
from wwwmarket.cli.engines import EnginePython, Launches, LaunchOptions, NoBenchmark, Sources
from wwwmarket.cli.node import Preset, serving_of, warn_without_backup
from wwwmarket.cli.options import (
    Advertise,
    Bind,
    Data,
    EndWithStdin,
    Host,
    IrohRelay,
    Json,
    Port,
    ReadyFile,
    Relays,
    Tokenizers,
    Traces,
    option,
    parse_share,
    passphrase_of,
)
from wwwmarket.cli.output import emit, fail, printable, say
from wwwmarket.cli.policies import parse_policy
from wwwmarket.cli.reputation import reputation
from wwwmarket.cli.serving import (
    RUNNING,
    Interrupts,
    Serving,
    anew_after_each_succession,
    announcing,
    fields_of,
    find_running,
    run_until_told,
)
from wwwmarket.cli.statement import parse_account
from wwwmarket.config import PRESETS
from wwwmarket.domain.errors import Forbidden, Malformed, Refusal
from wwwmarket.domain.identity import AccountId
from wwwmarket.domain.quantity import Prices, Slo
from wwwmarket.market.policy import Policy

if TYPE_CHECKING:
    from wwwmarket.adapters.engines.opening import OpenEngine
    from wwwmarket.bootstrap import NodeSettings, OfferSettings, Running
    from wwwmarket.node.offering import Offering
    from wwwmarket.node.service import AsksView

_HELP: Final = """Sell an engine's idle capacity on a market, under your own prices and promises.

\b
  wwwmarket provider join --market http://10.0.0.5:8080 --engine http://127.0.0.1:8000 \\
      --price-input 0.10 --price-output 0.40 --ttft-ms 500 --tpot-ms 40 --capacity 64
  wwwmarket provider status
  wwwmarket provider earnings --by model
  wwwmarket provider reputation
  wwwmarket provider leave
"""

_JOIN: Final = """Publish an offer for an engine, serve what it wins, and leave in order at Ctrl-C.

Prices are credits per million tokens, exact decimals, and they are ceilings: an idle provider asks --ask-floor of them,
and more as its sequences fill. --policy says when it sells, to whom and how much: a preset (always, idle-only, night,
wwwserve), or a TOML file; --ask-floor and --accept come before it. --ttft-ms and --tpot-ms are what you promise for 95
of 100 requests. The engine is any OpenAI-compatible server, or "embedded": a llama.cpp with a small model, for trying
things out; --engine can be given several times, for servers that are alike, and --launch starts one. A few requests
measure it first, half a minute at most.

\b
  wwwmarket provider join --market http://10.0.0.5:8080 --engine http://127.0.0.1:8000 --model qwen3-8b \\
      --price-input 0.10 --price-cached-input 0.02 --price-output 0.40 --ttft-ms 500 --tpot-ms 40 --capacity 64
  wwwmarket provider join --market http://127.0.0.1:8080 --engine embedded \\
      --price-input 0.05 --price-output 0.20 --ttft-ms 1000 --tpot-ms 50 --capacity 4 --ask-floor 0.8 --policy night
  wwwmarket provider join --market http://10.0.0.5:8080 --launch vllm:Qwen/Qwen3-8B \\
      --launch-options "--max-model-len 16384" --price-input 0.10 --price-output 0.40 --ttft-ms 500 --tpot-ms 40 \\
      --capacity 64

Several machines can sell for one account, each by a key of its own that 'wwwmarket account delegate' lets act for it;
--account makes sure of that.

To sell to other machines give --bind 0.0.0.0:0. No port of a router needs to be open: where one is in the way, nodes
that relay are found by themselves, and see nothing of what they forward.
"""

_LEAVE: Final = """Ask the running provider to withdraw its offer, finish what is in flight, and leave.

\b
  wwwmarket provider leave
  wwwmarket provider leave --data /srv/provider --timeout-s 120
"""

_ASKS_SHOWN: Final = 10
_LIVE_EVERY_S: Final = 0.5
_WITHDRAW_TIMEOUT_S: Final = 10.0

app = typer.Typer(help=_HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.command(help=_JOIN)
def join(  # noqa: PLR0913 - each is a term of the offer, or where the provider lives
    *,
    market: Annotated[str, option("--market", "Gateway of the market's node.", metavar="URL")],
    engine: Annotated[
        list[str] | None,
        option("--engine", "Base address of the engine, or: embedded. Again for each that is alike.", metavar="URL"),
    ] = None,
    launch: Launches = None,
    launch_options: LaunchOptions = "",
    engine_python: EnginePython = None,
    engine_priority: Annotated[
        int | None,
        option("--engine-priority", "Of the market's requests in the engine's queue, where it has priorities."),
    ] = None,
    no_benchmark: NoBenchmark = False,
    model: Annotated[str | None, option("--model", "Which of its models; else the first.")] = None,
    price_input: Annotated[
        int, option("--price-input", "Per million input tokens.", parser=parse_credits, metavar="CREDITS")
    ],
    price_output: Annotated[
        int, option("--price-output", "Per million output tokens.", parser=parse_credits, metavar="CREDITS")
    ],
    price_cached_input: Annotated[
        int | None,
        option(
            "--price-cached-input",
            "Per million input tokens found in the cache; else as --price-input.",
            parser=parse_credits,
            metavar="CREDITS",
        ),
    ] = None,
    ttft_ms: Annotated[int, option("--ttft-ms", "Promised time to first token.", min=1)],
    tpot_ms: Annotated[int, option("--tpot-ms", "Promised time per output token after it.", min=1)],
    capacity: Annotated[
        int, option("--capacity", "Sequences on offer at once.", min=1, max=65_536, metavar="SEQUENCES")
    ],
    tokens_per_s: Annotated[
        int | None,
        option("--tokens-per-s", "Output tokens per second over all of them; else what --tpot-ms comes to.", min=1),
    ] = None,
    policy: Annotated[
        Policy,
        option("--policy", "When it sells, to whom, how much of it.", parser=parse_policy, metavar="PRESET|FILE"),
    ] = "always",  # type: ignore[assignment] # typer parses defaults, too
    ask_floor: Annotated[
        int | None,
        option("--ask-floor", "Share of the prices asked when idle.", parser=parse_share, metavar="SHARE"),
    ] = None,
    accept: Annotated[
        int | None, option("--accept", "Share of bids that are answered.", parser=parse_share, metavar="SHARE")
    ] = None,
    bond: Annotated[
        int, option("--bond", "Credits that stand for the promises.", parser=parse_credits, metavar="CREDITS")
    ] = "0",  # type: ignore[assignment] # typer parses defaults, too
    precision: Annotated[str | None, option("--precision", "Of its weights, where the engine does not say.")] = None,
    blind: Annotated[bool, option("--blind", "The engine has no metrics: its load is only what goes by here.")] = False,
    api_key_env: Annotated[
        str | None, option("--api-key-env", "Variable that holds the engine's API key.", metavar="NAME")
    ] = None,
    account: Annotated[
        str | None,
        option("--account", "Sell as a machine of this account, or not at all.", parser=parse_account, metavar="ID"),
    ] = None,
    data: Data = None,
    host: Host = "127.0.0.1",
    port: Port = 0,
    bind: Bind = "127.0.0.1:0",
    advertise: Advertise = None,
    relays: Relays = "auto",
    iroh_relay: IrohRelay = None,
    tokenizer: Tokenizers = None,
    traces: Traces = False,
    accept_tabs: Annotated[
        bool, option("--accept-tabs", "Work under clients' tabs: many answers, one settlement.")
    ] = False,
    preset: Annotated[Preset, option("--preset", "How far apart the market's nodes are.")] = "local",
    ready_file: ReadyFile = None,
    end_with_stdin: EndWithStdin = False,
    json: Json = False,
) -> None:
    from wwwmarket.bootstrap import NODE_KEY, NodeSettings, OfferSettings, default_data

    sources = Sources(tuple(engine or ()), tuple(launch or ()), launch_options, engine_python, measure=not no_benchmark)
    sources.check()
    cached = price_input if price_cached_input is None else price_cached_input
    if cached > price_input:
        raise typer.BadParameter("cached input costs at most what input costs", param_hint="--price-cached-input")
    where = data or default_data("provider")
    offer = OfferSettings(
        engines=sources.engines,
        model=model,
        prices=Prices(
            input_micro_per_mtok=price_input, cached_input_micro_per_mtok=cached, output_micro_per_mtok=price_output
        ),
        slo=Slo(ttft_ms=ttft_ms, tpot_ms=tpot_ms),
        sequences=capacity,
        tokens_per_s=tokens_per_s or max(1, capacity * 1_000 // tpot_ms),
        policy=_adjusted(policy, ask_floor, accept),
        bond_micro=bond,
        precision=precision,
        api_key=_engine_key(api_key_env),
        blind=blind,
        priority=engine_priority,
    )
    settings = NodeSettings(
        data=where,
        market=market,
        host=host,
        port=port,
        bind=bind,
        advertise=tuple(advertise or ()),
        relays=relays,
        iroh_relay=iroh_relay,
        traces=traces,
        passphrase=passphrase_of(where, NODE_KEY),
        tokenizers=tuple(tokenizer or ()),
        config=replaced(PRESETS[preset], tabs=replaced(PRESETS[preset].tabs, accepted=accept_tabs)),
    )
    owner = None if account is None else AccountId(account)
    run_until_told(_sell(settings, offer, sources, owner, ready_file, stdin=end_with_stdin, json=json))


@app.command()
def status(
    *,
    gateway: Annotated[
        str | None, option("--provider-gateway", "The provider's own gateway; else found by --data.", metavar="URL")
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """How a provider is: its offers, what is in flight, what it has earned, and why its asks won or lost.

    Where an auctioneer did it wrong there is evidence; its gateway serves it at /v1/evidence/ASK, and anybody can judge
    it with 'wwwmarket audit --evidence FILE'.
    """
    from wwwmarket.gateway.market import OfferList
    from wwwmarket.node.service import AccountView, AsksView, NodeStatus

    with GatewayClient(gateway or _running(data).gateway) as client:
        node = client.get("/v1/status", NodeStatus)
        account = client.get(f"/v1/accounts/{node.account}", AccountView)
        offers = [one for one in client.get("/v1/offers", OfferList, limit=1_000).data if one.provider == node.account]
        asks = client.get("/v1/asks", AsksView, limit=_ASKS_SHOWN)
    emit(
        {
            "account": node.account,
            "gateway": client.base,
            "market": node.origin,
            "in_flight": node.in_flight,
            "draining": node.draining,
            "relays": node.relays,
            "balance": account.balance,
            "offers": [
                {
                    "id": one.id,
                    "model": one.offer.model.name,
                    "prices": one.offer.prices,
                    "slo": one.offer.promise.slo,
                    "sequences": one.offer.capacity.sequences,
                    "valid_until_ms": one.offer.valid_until_ms,
                    "finality": one.finality,
                }
                for one in offers
            ],
            **asks_shown(asks, json=json),
        },
        json,
    )


def asks_shown(asks: "AsksView", *, json: bool) -> dict[str, object]:
    """The asks of a provider: whole for a program, and for people the counts and the latest reasons."""
    if json:
        return {"asks": asks}
    return {
        "asks": asks.asks,
        "won": asks.verdicts.get("won", 0),
        "lost": asks.verdicts.get("lost", 0),
        "median_gap_micro": asks.median_gap_micro,
        "otherwise": {name: count for name, count in asks.verdicts.items() if name not in {"won", "lost"}} or None,
        "latest": [
            {
                "asked_ms": one.asked_ms,
                "verdict": one.verdict,
                "score": one.score,
                "winner_score": one.winner_score,
                "reason": one.reason,
            }
            for one in asks.latest
        ],
        "evidence": list(asks.evidence),
    }


app.command()(earnings)
app.command()(reputation)


@app.command(help=_LEAVE)
def leave(
    *,
    data: Data = None,
    timeout_s: Annotated[int, option("--timeout-s", "How long to wait until it has left.", min=1)] = 60,
    json: Json = False,
) -> None:
    serving = _running(data)
    os.kill(serving.pid, signal.SIGTERM)
    until_s = time.monotonic() + timeout_s
    while (Path(serving.data) / RUNNING).exists():
        if time.monotonic() > until_s:
            fail(f"process {serving.pid} is still finishing what it has in flight after {timeout_s} s")
        time.sleep(0.05)
    emit({"account": serving.account, "left": True}, json)


def _running(data: Path | None) -> Serving:
    """The provider at work over ``data``, known by its gateway: a process number alone may be another's by now."""
    from wwwmarket.bootstrap import default_data
    from wwwmarket.node.service import NodeStatus

    serving = find_running(data or default_data("provider"))
    with GatewayClient(serving.gateway) as client:
        if client.get("/v1/status", NodeStatus).account != serving.account:
            fail(f"what answers at {serving.gateway} is not the provider of {serving.data}")
    return serving


def _adjusted(policy: Policy, floor_ppm: int | None, accept_ppm: int | None) -> Policy:
    """The command line comes before the policy."""
    given = {"floor_ppm": floor_ppm, "accept_ppm": accept_ppm}
    try:
        return replace(policy, **{name: share for name, share in given.items() if share is not None})
    except Malformed as refusal:
        raise typer.BadParameter(refusal.message, param_hint="--ask-floor") from None


def _engine_key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise typer.BadParameter(f"the variable {variable} is not set", param_hint="--api-key-env")
    return key


async def _sell(  # noqa: PLR0913 - what is sold, where, for whom, and who hears of it
    settings: "NodeSettings",
    offer: "OfferSettings",
    sources: Sources,
    owner: AccountId | None,
    ready_file: Path | None,
    *,
    stdin: bool,
    json: bool,
) -> None:
    from wwwmarket.bootstrap import open_engine

    async with contextlib.AsyncExitStack() as stack:
        interrupts = stack.enter_context(Interrupts(stdin=stdin))
        announce = stack.enter_context(announcing(settings.data, ready_file))
        addresses = await stack.enter_async_context(sources.addresses())
        measure = sources.measuring(settings.data, offer.sequences)
        opened = await stack.enter_async_context(open_engine(replaced(offer, engines=addresses), measure))

        async def sell(begun: int) -> None:
            await _sell_once(settings, offer, owner, opened, interrupts, announce, json=None if begun else json)

        await anew_after_each_succession(sell)


async def _sell_once(  # noqa: PLR0913, PLR0917 - what is sold, where, for whom, and who hears of it
    settings: "NodeSettings",
    offer: "OfferSettings",
    owner: AccountId | None,
    opened: "OpenEngine",
    interrupts: Interrupts,
    announce: Callable[[Serving], None],
    *,
    json: bool | None,
) -> None:
    """``json`` None: whoever reads standard output knows what is sold and where."""
    from wwwmarket.bootstrap import begin_selling, open_node

    async with open_node(settings) as running:
        _check_owner(running, owner, settings.data)
        served = opened.served
        offering = await begin_selling(running.node, opened.engine, opened.description, served, offer, fit=opened.fit)
        serving = serving_of(running, settings.data)
        if json is not None:
            shown = {"model": served.name, "offer": offering.current, "measured": opened.fit if json else None}
            emit({**fields_of(serving, json=json), **shown}, json)
            sys.stdout.flush()
            warn_without_backup(settings.data, serving.account)
        say(f"Selling {printable(served.name)}: Ctrl-C to leave in order, twice to stop at once.")
        announce(serving)
        async with _live_line(running):
            await interrupts.wait(running.node.wait_failed())
        say("Leaving: the offer is withdrawn, and what is in flight is finished first.")
        await _leave_market(running, offering)


def _check_owner(running: "Running", owner: AccountId | None, data: Path) -> None:
    """Raises Forbidden: nothing is published, so that the key stays fresh and can still be delegated to."""
    if owner is not None and running.node.account != owner:
        raise Forbidden(
            f"this machine's key does not act for {owner}: run 'wwwmarket keys consent {owner} --data {data} > "
            "machine.json' here, 'wwwmarket account delegate machine.json' where that account's key is, then this again"
        )


async def _leave_market(running: "Running", offering: "Offering") -> None:
    try:
        async with asyncio.timeout(_WITHDRAW_TIMEOUT_S):
            await offering.withdraw()
    except TimeoutError:
        say("The offer could not be withdrawn, and lapses by itself: the ledger does not answer.")
    except Refusal as refusal:
        say(f"The offer could not be withdrawn, and lapses by itself: {refusal.message}")
    await running.node.drain()


@contextlib.asynccontextmanager
async def _live_line(running: "Running") -> AsyncIterator[None]:
    """One line on a terminal's stderr that says how it goes; nothing where a program reads."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, highlight=False)
    earned_before = _balance(running)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        task = asyncio.create_task(_refresh(live, running, earned_before))
        try:
            yield
        finally:
            task.cancel()


async def _refresh(live: Any, running: "Running", balance_before: int) -> None:
    while True:
        counters, earned_micro = running.answers.counters().counters, _balance(running) - balance_before
        live.update(live_text(counters, _in_flight(running), earned_micro))
        live.refresh()
        await asyncio.sleep(_LIVE_EVERY_S)


def live_text(counters: dict[str, float], in_flight: int, earned_micro: int) -> str:
    """What a provider sees while it sells."""
    asked, won = int(counters.get("bids_received_total", 0)), int(counters.get("awards_received_total", 0))
    return f"asked {asked} · won {won} · in flight {in_flight} · earned {credits_text(earned_micro)} credits"


def _in_flight(running: "Running") -> int:
    return 0 if running.node.selling is None else running.node.selling.in_flight


def _balance(running: "Running") -> int:
    account = running.answers.account(running.node.account).balance
    return account.available_micro + account.bonded_micro
