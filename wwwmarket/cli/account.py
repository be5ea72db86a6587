"""``wwwmarket account``: what an account has."""

from typing import Annotated, Final

import typer

from wwwmarket.cli.client import GatewayClient
from wwwmarket.cli.options import GATEWAY, Gateway, Json
from wwwmarket.cli.output import emit
from wwwmarket.node.service import AccountView, NodeStatus

_HELP: Final = """Look at accounts on the ledger.

\b
  wwwmarket account show                    the node's own
  wwwmarket account show 82cca6f5… --json   any account, by its public key
"""

app = typer.Typer(help=_HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _group() -> None:
    """One subcommand alone would not be a group."""


@app.command()
def show(
    account: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="The account's public key, as hex; else the node's own.")
    ] = None,
    *,
    gateway: Gateway = GATEWAY,
    json: Json = False,
) -> None:
    """Show an account's balance (available, locked by open awards, bonded by offers) and its next entry's place."""
    with GatewayClient(gateway) as client:
        name = account or client.get("/v1/status", NodeStatus).account
        emit(client.get(f"/v1/accounts/{name}", AccountView), json)
