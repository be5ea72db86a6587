"""``wwwmarket ledger propose`` and ``ledger decree``: what a committee decides, on its way to the ledger."""

import json as jsons
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from wwwmarket.cli.amounts import parse_credits
from wwwmarket.cli.client import GatewayClient
from wwwmarket.cli.decrees import join, read_certified, read_committee
from wwwmarket.cli.options import GATEWAY, Gateway, Json, option
from wwwmarket.cli.output import emit, say
from wwwmarket.domain.errors import Malformed
from wwwmarket.domain.identity import AccountId
from wwwmarket.domain.records import Election, Mint, Upgrade
from wwwmarket.gateway.governance import Decreed, SignedDecree
from wwwmarket.node.service import GovernanceView

_PROPOSE: Final = """Write a proposal for the committee, to be signed by its mirrors.

\b
  wwwmarket ledger propose election m1.json m2.json m3.json m5.json > election.json
  wwwmarket ledger propose upgrade --in-entries 5000 > upgrade.json
  wwwmarket ledger propose mint ACCOUNT 1000 > mint.json
  wwwmarket mirror sign election.json --data m1 > election.m1.json     each mirror
  wwwmarket ledger decree election.m1.json election.m2.json election.m3.json
"""

IN_ENTRIES: Final = 1_000
"""Time for everybody to sign, and to install what the upgrade needs."""

propose_app = typer.Typer(help=_PROPOSE, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@propose_app.command()
def election(
    members: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="The new members: files of 'mirror init'.", exists=True)
    ],
    *,
    gateway: Gateway = GATEWAY,
) -> None:
    """Another committee, all of its members named anew."""
    now = _governance(gateway)
    committee = read_committee(members)
    _write(Election(origin=now.origin, number=now.governance.decrees, committee=committee))
    say(f"{len(committee.members)} members, of whom {committee.faults_max} may lie; {committee.quorum} make final.")


@propose_app.command()
def upgrade(
    *,
    in_entries: Annotated[
        int, option("--in-entries", "After how many more entries it takes effect.", min=2)
    ] = IN_ENTRIES,
    gateway: Gateway = GATEWAY,
) -> None:
    """The newest contracts of this version of wwwmarket, from a stated entry on."""
    from wwwmarket.rules.registry import Registry

    now = _governance(gateway)
    _write(
        Upgrade(
            origin=now.origin,
            number=now.governance.decrees,
            contracts=Registry.load().latest,
            from_index=now.ledger_size + in_entries,
        )
    )


@propose_app.command()
def mint(
    to: Annotated[str, typer.Argument(metavar="ACCOUNT", help="Who receives the new credits.")],
    amount: Annotated[int, typer.Argument(metavar="CREDITS", help="How many.", parser=parse_credits)],
    *,
    gateway: Gateway = GATEWAY,
) -> None:
    """New credits, which are nobody's loss and everybody's dilution."""
    now = _governance(gateway)
    try:
        account = msgspec.convert(to, AccountId)
    except msgspec.ValidationError:
        raise Malformed("an account is named by its public key: 64 hexadecimal digits") from None
    _write(Mint(origin=now.origin, number=now.governance.decrees, to=AccountId(account), amount_micro=amount))


def decree(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="What 'mirror sign' printed, of each mirror.", exists=True)
    ],
    *,
    gateway: Gateway = GATEWAY,
    admin_token_file: Annotated[
        Path, option("--admin-token-file", "The node's admin.token; it writes the decree.", metavar="FILE")
    ],
    json: Json = False,
) -> None:
    """Join the signatures of a proposal, and write it to the ledger once a quorum has signed.

    \b
      wwwmarket ledger decree mint.m1.json mint.m2.json mint.m3.json --admin-token-file ~/market/admin.token
    """  # noqa: D301 - \b keeps the examples' lines
    joined = join([read_certified(file) for file in files])
    with GatewayClient(gateway, admin_token_file.read_text().strip()) as client:
        emit(client.post("/v1/decrees", SignedDecree(joined), Decreed), json)


def _governance(gateway: str) -> GovernanceView:
    with GatewayClient(gateway) as client:
        return client.get("/v1/governance", GovernanceView)


def _write(resolution: Any) -> None:
    typer.echo(jsons.dumps(msgspec.to_builtins(resolution), indent=2))
