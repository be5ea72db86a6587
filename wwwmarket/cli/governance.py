"""``wwwmarket ledger propose`` and ``ledger decree``: what a committee decides, on its way to the ledger."""

import json as jsons
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from wwwmarket.adapters.evidence_files import EvidenceFolder
from wwwmarket.adapters.log_reader import open_log
from wwwmarket.cli.amounts import parse_credits
from wwwmarket.cli.client import GatewayClient
from wwwmarket.cli.decrees import join, read_certified, read_committee
from wwwmarket.cli.options import GATEWAY, Gateway, Json, option, passphrase_of
from wwwmarket.cli.output import emit, say
from wwwmarket.crypto import canonical
from wwwmarket.domain.errors import Conflict, Malformed, NotFound
from wwwmarket.domain.evidence import TwoOaths
from wwwmarket.domain.identity import AccountId
from wwwmarket.domain.records import Certified, Election, Mint, Succession, Upgrade
from wwwmarket.gateway.governance import Decreed, SignedDecree
from wwwmarket.ledger.checkpoint import Checkpoint, parse_checkpoint
from wwwmarket.ledger.evidence import name_of
from wwwmarket.ledger.note import NOTE_BYTES_MAX, parse_note
from wwwmarket.mirror.service import MirrorStatus
from wwwmarket.node.service import GovernanceView

_PROPOSE: Final = """Write a proposal for the committee, to be signed by its mirrors.

\b
  wwwmarket ledger propose election m1.json m2.json m3.json m5.json > election.json
  wwwmarket ledger propose upgrade --in-entries 5000 > upgrade.json
  wwwmarket ledger propose mint ACCOUNT 1000 > mint.json
  wwwmarket ledger propose succession --help          another operator
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
def succession(
    *,
    origin: Annotated[str, option("--origin", "The log's new name, which it never had before.", metavar="NAME")],
    data: Annotated[Path, option("--data", "The new operator's folder; its key is made there.", metavar="DIR")],
    bind: Annotated[
        str, option("--bind", "Where the market's nodes will reach the new operator.", metavar="HOST:PORT")
    ],
    mirror: Annotated[list[str], option("--mirror", "Address of a mirror; name all that live.", metavar="URL")],
) -> None:
    """Another operator for a log whose own is dead or lies, from the tree that its mirrors cosigned last."""
    from wwwmarket.bootstrap import NODE_KEY
    from wwwmarket.bootstrap_succession import prepare

    checkpoint, decrees = _furthest(mirror)
    operator, address = prepare(data.absolute(), passphrase_of(data, NODE_KEY), bind)
    try:
        proposal = msgspec.convert(
            {
                "kind": "succession/v1",
                "origin": checkpoint.origin,
                "number": decrees,
                "size": checkpoint.size,
                "root": checkpoint.root.hex(),
                "successor": origin,
                "operator": operator,
                "operator_address": msgspec.to_builtins(address),
            },
            Succession,
        )
    except msgspec.ValidationError as error:
        raise Malformed(f"that is no succession: {error}") from None
    _write(proposal)
    say(f"The log goes on after {checkpoint.size} entries. Stop each mirror, sign with it, and join: ledger succeed.")


def _furthest(mirrors: list[str]) -> tuple[Checkpoint, int]:
    """The largest checkpoint that a mirror has cosigned, and how many decrees it knows.

    Raises:
        Conflict: they are not of one log, or not of one tree: then no quorum can sign.
    """
    seen: list[tuple[Checkpoint, int]] = []
    for url in mirrors:
        with closing(open_log(url)) as log, GatewayClient(url.removesuffix("/ledger")) as client:
            note = log.read("checkpoint", bytes_max=NOTE_BYTES_MAX)
            if note is None:
                raise NotFound(f"the mirror at {url} has cosigned nothing")
            checkpoint = parse_checkpoint(parse_note(note).text)
            seen.append((checkpoint, client.get("/health", MirrorStatus).decrees))
            say(f"{url}: {checkpoint.size} entries of {checkpoint.origin}, root {checkpoint.root.hex()[:16]}…")
    furthest = max(seen, key=lambda one: one[0].size)
    if any(one.origin != furthest[0].origin for one, _ in seen):
        raise Conflict("these mirrors are of different logs")
    if any(one.size == furthest[0].size and one.root != furthest[0].root for one, _ in seen):
        raise Conflict("these mirrors cosigned different trees of one size: the log has forked, see their evidence")
    return furthest


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


def succeed(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="What 'mirror sign' printed, of each mirror.", exists=True)
    ],
    *,
    data: Annotated[Path, option("--data", "The new operator's folder, as it was proposed.", metavar="DIR")],
    copy: Annotated[str, option("--copy", "A mirror or folder server that has the log.", metavar="URL")],
    json: Json = False,
) -> None:
    """Take a log over, once a quorum of its mirrors has signed: copy it, replay it, and be ready to order it.

    Then run the node, restart the mirrors at its address, and the market's other nodes follow by themselves.

    \b
      wwwmarket ledger propose succession --help                       what is to be signed
      wwwmarket mirror sign next.json --data m1 > next.m1.json         each mirror, stopped
      wwwmarket ledger succeed next.m1.json next.m2.json next.m3.json --data next --copy http://10.0.0.1:8090
      wwwmarket node run --data next --host 0.0.0.0
    """  # noqa: D301 - \b keeps the examples' lines
    import asyncio

    from wwwmarket.bootstrap import NODE_KEY
    from wwwmarket.bootstrap_succession import take_over

    signed = [read_certified(file) for file in files]
    _report_two_oaths(signed, data)
    joined = join(signed)
    body = joined.body
    if not isinstance(body, Succession):
        raise Malformed("that is no succession: write it with 'ledger decree'")
    certified = Certified(body=body, signatures=joined.signatures)
    size = asyncio.run(take_over(data.absolute(), passphrase_of(data, NODE_KEY), certified, copy))
    emit({"log": body.successor, "entries": size, "operator": body.operator, "data": str(data.absolute())}, json)
    say(f"Run it: wwwmarket node run --data {data.absolute()}")


def _report_two_oaths(signed: list[Certified[Any]], data: Path) -> None:
    """A mirror that swore to two successors is worth a file, whatever becomes of this one."""
    oaths: dict[str, Certified[Succession]] = {}
    for each in signed:
        for one in each.signatures if isinstance(each.body, Succession) else ():
            oath: Certified[Succession] = Certified(body=each.body, signatures=(one,))
            first = oaths.setdefault(one.signer, oath)
            if first.body.origin == oath.body.origin and first.body != oath.body:
                evidence = TwoOaths(first=first, second=oath)
                kept = EvidenceFolder(data / "evidence").keep(name_of(evidence), canonical.encode(evidence))
                say(f"A mirror swore to two successors: {kept}")


def _governance(gateway: str) -> GovernanceView:
    with GatewayClient(gateway) as client:
        return client.get("/v1/governance", GovernanceView)


def _write(resolution: Any) -> None:
    typer.echo(jsons.dumps(msgspec.to_builtins(resolution), indent=2))
