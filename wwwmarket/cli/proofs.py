"""``wwwmarket ledger policy`` and ``prove``: what a light client keeps, and what it asks for."""

import sys
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from wwwmarket.cli.client import GatewayClient
from wwwmarket.cli.options import GATEWAY, Gateway, Json, option
from wwwmarket.cli.output import emit, say
from wwwmarket.domain.errors import Malformed
from wwwmarket.domain.identity import AccountId
from wwwmarket.ledger.note import SignatureType, VerifierKey, parse_verifier_key
from wwwmarket.ledger.policy import policy_text
from wwwmarket.ledger.proof_file import parse_proof_file
from wwwmarket.node.service import NodeStatus


def policy(
    *,
    gateway: Gateway = GATEWAY,
    vkey: Annotated[
        str | None, option("--vkey", "The log's verifier key, to believe nobody about it.", metavar="KEY")
    ] = None,
    json: Json = False,
) -> None:
    """Print whom to believe about a market's ledger (C2SP tlog-policy): its log, its mirrors, and their quorum.

    It is what that node says. Compare it with what others say, or with an audit, before you rest on it; then keep it.
    It changes when the committee does.

    \b
      wwwmarket ledger policy --gateway http://127.0.0.1:8080 > market.policy
      wwwmarket verify 17.tlog-proof --policy market.policy
    """  # noqa: D301 - \b keeps the examples' lines
    with GatewayClient(gateway) as client:
        log = _log_key(client, vkey)
        committee = client.get("/v1/status", NodeStatus).committee
        text = policy_text(log, committee, f"{client.base}/ledger")
    if json:
        emit({"policy": text, "log": log.text, "quorum": committee.quorum, "witnesses": len(committee.members)}, json)
    else:
        sys.stdout.write(text)
    if not committee.members:
        say("This market has no mirrors: the policy believes its operator alone.")


def prove(
    what: Annotated[str, typer.Argument(metavar="INDEX|ACCOUNT", help="An entry's index, or an account's key.")],
    *,
    gateway: Gateway = GATEWAY,
    out: Annotated[Path | None, typer.Option("--out", help="Where the file goes; else stdout.", metavar="FILE")] = None,
) -> None:
    """Get a proof file (C2SP tlog-proof) of one entry, or of what an account has, under a final checkpoint.

    \b
      wwwmarket ledger prove 17 > 17.tlog-proof
      wwwmarket ledger prove 5f3c…e1 --out mine.tlog-proof
    """  # noqa: D301 - \b keeps the examples' lines
    with GatewayClient(gateway) as client:
        content = client.content(f"/ledger/proof/{_path(what)}")
    parse_proof_file(content)
    if out is None:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
    else:
        out.write_bytes(content)
        say(f"Check it with: wwwmarket verify {out} --policy FILE")


def _path(what: str) -> str:
    if what.isascii() and what.isdecimal() and len(what) < 20:
        return f"entry/{what}"
    try:
        return f"account/{msgspec.convert(what, AccountId)}"
    except msgspec.ValidationError:
        raise Malformed(f"{what!r} is neither an entry's index nor an account's key of 64 hex digits") from None


_OF_A_LOG: Final = "that is a cosigner's key, and not a log's"


def _log_key(client: GatewayClient, given: str | None) -> VerifierKey:
    served = parse_verifier_key(client.text("/ledger/vkey"))
    key = served if given is None else parse_verifier_key(given)
    if key.type is not SignatureType.ED25519:
        raise Malformed(_OF_A_LOG)
    if key != served:
        raise Malformed(f"the node serves a log with another key: {served.text}")
    return key
