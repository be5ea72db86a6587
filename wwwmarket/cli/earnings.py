"""``wwwmarket provider earnings``: what a provider earned, from the ledger itself."""

from typing import Annotated

import typer

from wwwmarket.cli.options import GATEWAY, Data, Json
from wwwmarket.cli.serving import find_running
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


def earnings(  # noqa: PLR0913 - each is a choice about what is shown
    account: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="A provider's account; else that of the one that runs here.")
    ] = None,
    *,
    data: Data = None,
    ledger: LedgerAddress = GATEWAY,
    from_: From = None,
    until: Until = None,
    by: By = "day",
    csv: CsvFile = None,
    page: Page = None,
    json: Json = False,
) -> None:
    """What a provider earned by day, counterparty or model, replayed from the ledger itself.

    \b
      wwwmarket provider earnings --ledger http://10.0.0.5:8080
      wwwmarket provider earnings --by model --from 2026-11-01 --csv november.csv
    """  # noqa: D301 - \b keeps the examples' lines
    from wwwmarket.bootstrap import default_data

    name = account or find_running(data or default_data("provider")).account
    read = read_statement(parse_account(name), ledger, from_, until, by)
    print_statement(read, ledger, csv_file=csv, page=page, json=json)
