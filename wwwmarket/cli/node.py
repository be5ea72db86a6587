"""``wwwmarket node``: run a node that founds a market or joins one, and manage its gateway's API keys."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import typer

from wwwmarket.adapters.keystore import KeyStore
from wwwmarket.cli.amounts import parse_credits
from wwwmarket.cli.api_keys import keys_app
from wwwmarket.cli.decrees import read_committee
from wwwmarket.cli.options import (
    PORT,
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
    parse_ports,
    parse_share,
    passphrase_of,
)
from wwwmarket.cli.output import emit, say
from wwwmarket.cli.serving import (
    Interrupts,
    Serving,
    anew_after_each_succession,
    announcing,
    fields_of,
    run_until_told,
)
from wwwmarket.config import PRESETS
from wwwmarket.domain.identity import AccountId
from wwwmarket.domain.records import Parameters

_HELP: Final = """Run a node: a gateway for clients, and a replica of the market's ledger.

\b
  wwwmarket node run                                        found a market on this machine
  wwwmarket node run --market http://10.0.0.5:8080          join that one as a further gateway
  wwwmarket node keys create --name ada --budget 5          an API key with 5 credits
"""

_RUN: Final = """Found a market, or join one as a gateway, and serve until Ctrl-C.

The first Ctrl-C lets what is in flight finish; the second stops at once, and nothing that was promised is lost.
Standard output says where it serves; the admin token's file is for "node keys".

\b
  wwwmarket node run
  wwwmarket node run --origin market.example.org --credits 1000000 --host 0.0.0.0 --bind 0.0.0.0:4433 --preset wan
  wwwmarket node run --market http://10.0.0.5:8080 --data /srv/gateway --port 8081

Several nodes of one operator can order one log, so that it goes on when one of them dies. Each has its own data and
key; they share the orderer, the operator's key file and the origin:

\b
  wwwmarket keys create --name operator --dir /srv/shared
  wwwmarket node run --orderer etcd://10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379 --operator-key /srv/shared/operator.pem
  wwwmarket node run --orderer postgresql+psycopg://market@10.0.0.9/order --operator-key /srv/shared/operator.pem
"""

app = typer.Typer(help=_HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(keys_app, name="keys")

Preset: TypeAlias = Literal["local", "lan", "wan"]


@app.command(help=_RUN)
def run(  # noqa: PLR0913 - each is a choice about the node
    *,
    data: Data = None,
    origin: Annotated[str, option("--origin", "Name of the market to found.")] = "local.market",
    market: Annotated[
        str | None, option("--market", "Gateway of the market to join; several with commas.", metavar="URL")
    ] = None,
    orderer: Annotated[
        str | None,
        option("--orderer", "Where the log is ordered: sqlite://, postgresql+psycopg:// or etcd://.", metavar="URL"),
    ] = None,
    operator_key: Annotated[
        Path | None, option("--operator-key", "Key file that the log's sequencers share.", metavar="FILE")
    ] = None,
    seed_orderer: Annotated[
        bool, option("--seed-orderer", "Give an empty orderer the log that this node has ordered alone.")
    ] = False,
    store: Annotated[
        str | None, option("--store", "The node's database: sqlite:/// or postgresql+psycopg://.", metavar="URL")
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = PORT,
    bind: Bind = "127.0.0.1:0",
    advertise: Advertise = None,
    relays: Relays = "auto",
    iroh_relay: IrohRelay = None,
    traces: Traces = False,
    relay_for: Annotated[
        int, option("--relay-for", "Forward to as many nodes behind routers; needs a --bind others reach.", min=0)
    ] = 0,
    relay_ports: Annotated[
        str | None, option("--relay-ports", "UDP ports for that; else any.", metavar="LOW-HIGH")
    ] = None,
    credit: Annotated[
        int, option("--credits", "All the credits of a founded market.", parser=parse_credits, metavar="CREDITS")
    ] = "1000000",  # type: ignore[assignment] # typer parses defaults, too
    committee: Annotated[
        list[Path] | None,
        option("--committee", "A file of 'mirror init', once for each mirror of a founded market.", metavar="FILE"),
    ] = None,
    fee: Annotated[
        int, option("--fee", "A founded market's share of each payment.", parser=parse_share, metavar="SHARE")
    ] = "0",  # type: ignore[assignment] # typer parses defaults, too
    tokenizer: Tokenizers = None,
    tabs: Annotated[
        int,
        option("--tabs", "Lock so much with a provider, and settle many answers at once.", parser=parse_credits),
    ] = "0",  # type: ignore[assignment] # typer parses defaults, too
    preset: Annotated[Preset, option("--preset", "How far apart the market's nodes are.")] = "local",
    ready_file: ReadyFile = None,
    end_with_stdin: EndWithStdin = False,
    json: Json = False,
) -> None:
    from wwwmarket.bootstrap import NODE_KEY, NodeSettings, default_data

    where = data or default_data("node")
    settings = NodeSettings(
        data=where,
        market=market,
        orderer=orderer,
        operator_key=operator_key,
        seed_orderer=seed_orderer,
        store=store,
        origin=origin,
        credits_micro=credit,
        committee=read_committee(committee or []),
        parameters=Parameters(fee_ppm=fee),
        host=host,
        port=port,
        bind=bind,
        advertise=tuple(advertise or ()),
        relays=relays,
        iroh_relay=iroh_relay,
        traces=traces,
        relay_for=relay_for,
        relay_ports=None if relay_ports is None else parse_ports(relay_ports),
        passphrase=passphrase_of(where, NODE_KEY),
        tokenizers=tuple(tokenizer or ()),
        config=replace(PRESETS[preset], tabs=replace(PRESETS[preset].tabs, lock_micro=tabs)),
    )
    run_until_told(_serve(settings, ready_file, stdin=end_with_stdin, json=json))


async def _serve(settings: Any, ready_file: Path | None, *, stdin: bool, json: bool) -> None:
    with Interrupts(stdin=stdin) as interrupts, announcing(settings.data, ready_file) as announce:

        async def serve(begun: int) -> None:
            await _serve_once(settings, interrupts, announce, json=None if begun else json)

        await anew_after_each_succession(serve)


async def _serve_once(
    settings: Any, interrupts: Interrupts, announce: Callable[[Serving], None], *, json: bool | None
) -> None:
    """``json`` None: whoever reads standard output knows where it serves."""
    from wwwmarket.bootstrap import open_node

    async with open_node(settings) as running:
        serving = serving_of(running, settings.data)
        if json is not None:
            emit(fields_of(serving, json=json), json)
            sys.stdout.flush()
            warn_without_backup(settings.data, serving.account)
        say(f"Serving at {serving.gateway}: Ctrl-C to leave in order, twice to stop at once.")
        announce(serving)
        await interrupts.wait(running.node.wait_failed())
        say("Leaving: what is in flight is finished first.")
        await running.node.drain()


def serving_of(running: Any, data: Path) -> Serving:
    """What ``bootstrap.Running`` says of itself."""
    return Serving(
        gateway=running.gateway,
        openai=f"{running.gateway}/v1",
        account=running.node.account,
        vkey=running.answers.verifier_key(),
        admin_token_file=str((data / "admin.token").absolute()),
        data=str(data.absolute()),
        pid=os.getpid(),
    )


def warn_without_backup(data: Path, account: AccountId) -> None:
    """A lost key is a lost account: say so until there is a backup."""
    from wwwmarket.bootstrap import NODE_KEY

    keys = KeyStore(data / "keys")
    if not keys.has_backup(NODE_KEY, account):
        say(
            "No backup of this node's key exists, and a lost key is a lost account: "
            f"wwwmarket keys backup --name {NODE_KEY} --dir {keys.directory.absolute()}"
        )
