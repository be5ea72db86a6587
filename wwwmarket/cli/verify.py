"""``wwwmarket verify``: what a proof file proves, from it and a policy alone. Nothing is asked of anybody."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from wwwmarket.cli.entries import says
from wwwmarket.cli.options import Json, option
from wwwmarket.cli.output import emit, fail, say
from wwwmarket.domain.errors import Refusal
from wwwmarket.ledger.policy import POLICY_BYTES_MAX, parse_policy
from wwwmarket.ledger.proof_file import FILE_BYTES_MAX
from wwwmarket.market.light import Proven, verify_file

_UNREADABLE: Final = 2


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What ``--json`` prints: what is proven, or why nothing is. ``age_s`` is that of a balance, by this clock."""

    verdict: str
    proven: Proven | None
    reason: str
    age_s: int | None = None


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A proof of one entry or balance (C2SP tlog-proof).")],
    *,
    policy: Annotated[
        Path, option("--policy", "Whom to believe (C2SP tlog-policy); see 'ledger policy'.", metavar="FILE")
    ],
    max_age_s: Annotated[
        int | None, option("--max-age-s", "Refuse a balance older than this, by this machine's clock.", min=0)
    ] = None,
    json: Json = False,
) -> None:
    """Check offline that an entry stands in a ledger, or what an account had, under a checkpoint that others cosigned.

    Leaves with 0 when it is proven, 1 when it is not, 2 when a file cannot be read or the policy is none.

    \b
      curl -O http://127.0.0.1:8080/ledger/proof/entry/17
      wwwmarket ledger policy > market.policy        once; compare it with what others have
      wwwmarket verify 17 --policy market.policy
    """  # noqa: D301 - \b keeps the examples' lines
    try:
        believed = parse_policy(_read(policy, POLICY_BYTES_MAX))
        data = _read(file, FILE_BYTES_MAX)
    except (OSError, Refusal) as error:
        fail(f"nothing could be verified: {error}", _UNREADABLE)
    try:
        done = _judge(verify_file(data, believed), max_age_s)
    except Refusal as refusal:
        done = Verification(verdict="not proven", proven=None, reason=refusal.message)
    if json:
        emit(done, json)
    else:
        if done.proven is not None:
            emit(_shown(done, done.proven), json=False)
        emit(f"verify: {done.verdict}{f': {done.reason}' if done.reason else ''}", json=False)
    if done.verdict != "proven":
        raise typer.Exit(1)
    if done.proven is not None and done.proven.quorum is None:
        say("The policy asks for no witness: this is the operator's word alone.")


def _judge(proven: Proven, max_age_s: int | None) -> Verification:
    balance = proven.balance
    age_s = None if balance is None else max(0, int(time.time()) - balance.as_of_ms // 1_000)
    if age_s is not None and max_age_s is not None and age_s > max_age_s:
        return Verification(verdict="too old", proven=proven, reason=f"it is {age_s} s old", age_s=age_s)
    return Verification(verdict="proven", proven=proven, reason="", age_s=age_s)


def _shown(done: Verification, proven: Proven) -> Mapping[str, object]:
    checkpoint = {
        "log": proven.log,
        "checkpoint": f"{proven.checkpoint_size:,} entries, root {proven.checkpoint_root}",
        "cosigned_by": [each.witness for each in proven.cosignatures],
    }
    if proven.balance is None:
        body = msgspec.to_builtins(proven.body)
        entry = {"entry": proven.index, "id": proven.entry, "author": proven.author, "kind": body["kind"]}
        return {**entry, "says": says(body), **checkpoint}
    balance = proven.balance
    return {
        "account": balance.account,
        **msgspec.to_builtins(balance.balance),
        "as_of_ms": balance.as_of_ms,
        "age_s": done.age_s,
        **checkpoint,
    }


def _read(file: Path, bytes_max: int) -> bytes:
    """One byte more than may be in it tells that there is more."""
    with file.open("rb") as opened:
        return opened.read(bytes_max + 1)
