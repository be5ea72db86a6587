"""``wwwmarket account``: what an account has, and how it came to that."""

from typing import Annotated, Final

import typer

from wwwmarket.cli import own_keys
from wwwmarket.cli.api_keys import AdminTokenFile, Amount, Idempotency, admin_client
from wwwmarket.cli.client import GatewayClient
from wwwmarket.cli.options import GATEWAY, Gateway, Json
from wwwmarket.cli.output import emit
from wwwmarket.cli.statement import (
    By,
    CsvFile,
    From,
    LedgerAddress,
    Page,
    Until,
    parse_account,
    print_statement,
    read_statement,
)
from wwwmarket.domain.identity import AccountId
from wwwmarket.node.service import AccountView, NodeStatus

_HELP: Final = """Look at accounts on the ledger, pay from the node's own, and say whose keys act for it.

\b
  wwwmarket account show                    the node's own
  wwwmarket account show 82cca6f5… --json   any account, by its public key
  wwwmarket account statement --by day      what came in and went out, replayed from the ledger
  wwwmarket account pay 82cca6f5… 10        from the node's own account to another
  wwwmarket account guard KEY               name the key that can recover it when its own is lost
  wwwmarket account delegate machine.json   let another machine sell for it
"""

app = typer.Typer(help=_HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command(help=own_keys.GUARD)(own_keys.guard)
app.command(help=own_keys.RECOVER)(own_keys.recover)
app.command()(own_keys.delegate)
app.command()(own_keys.revoke)


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
    name = account or _own(gateway)
    with GatewayClient(gateway) as client:
        emit(client.get(f"/v1/accounts/{name}", AccountView), json)


@app.command()
def pay(  # noqa: PLR0913 - each is a choice about the payment
    to: Annotated[
        str, typer.Argument(metavar="ID", help="Whose account: its public key, as hex.", parser=parse_account)
    ],
    amount: Amount,
    *,
    idempotency_key: Idempotency = None,
    gateway: Gateway = GATEWAY,
    admin_token_file: AdminTokenFile = None,
    json: Json = False,
) -> None:
    """Pay somebody from the node's own account: a provider for its bond, another gateway for its clients."""
    from wwwmarket.gateway.keys import Payment

    headers = None if idempotency_key is None else {"idempotency-key": idempotency_key}
    with admin_client(gateway, admin_token_file) as client:
        emit(client.post("/v1/payments", Payment(to=AccountId(to), amount_micro=amount), AccountView, headers), json)


@app.command()
def statement(  # noqa: PLR0913 - each is a choice about what is shown
    account: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="The account's public key, as hex; else the node's own.")
    ] = None,
    *,
    ledger: LedgerAddress = GATEWAY,
    from_: From = None,
    until: Until = None,
    by: By = None,
    csv: CsvFile = None,
    page: Page = None,
    gateway: Gateway = GATEWAY,
    json: Json = False,
) -> None:
    """Every entry that changed an account, replayed from the ledger itself; its lines add up to the balance.

    \b
      wwwmarket account statement
      wwwmarket account statement 82cca6f5… --from 2026-11-01 --until 2026-12-01 --csv november.csv
      wwwmarket account statement --by model --page statement.html
    """  # noqa: D301 - \b keeps the examples' lines
    name = account or _own(gateway)
    read = read_statement(parse_account(name), ledger, from_, until, by)
    print_statement(read, ledger, csv_file=csv, page=page, json=json)


def _own(gateway: str) -> str:
    with GatewayClient(gateway) as client:
        return client.get("/v1/status", NodeStatus).account
