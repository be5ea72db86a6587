"""``wwwmarket tab``: whether an answer bought under a tab was paid, from its proof and a copy of the ledger."""

import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
import typer

from wwwmarket.adapters.log_reader import open_log
from wwwmarket.cli.client import GatewayClient
from wwwmarket.cli.ledger import LedgerAddress, entries, read_checkpoint
from wwwmarket.cli.options import GATEWAY, Gateway, Json
from wwwmarket.cli.output import emit, fail, say
from wwwmarket.cli.progress import progress
from wwwmarket.crypto import canonical
from wwwmarket.crypto.signing import open_entry
from wwwmarket.domain.book import OpenTab
from wwwmarket.domain.errors import Conflict, Refusal
from wwwmarket.domain.identity import AccountId, EntryId
from wwwmarket.domain.quantity import Count, MicroCredits
from wwwmarket.domain.records import TabSettlement
from wwwmarket.ledger.merkle import Frontier, leaf_hash
from wwwmarket.market.tab import TabProof, name_of, verify_proof, worth
from wwwmarket.rules.check import check
from wwwmarket.rules.registry import Registry
from wwwmarket.rules.state import State

_HELP: Final = """Tabs: many answers of one provider, paid by one settlement.

\b
  wwwmarket tab proof AWARD > answer.json           that its tab pays for an answer, while your node has it
  wwwmarket tab verify answer.json --ledger ./log   whether it was paid, and how much, by a copy of the ledger
"""

_UNREADABLE: Final = 2
_PROOF_BYTES_MAX: Final = 65_536
"""A receipt is some 4 kB, at most about 10; a proof adds 63 hashes."""

_Verdict: TypeAlias = Literal["paid", "claimed", "not paid", "not settled"]

app = typer.Typer(help=_HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What ``--json`` prints. ``claimed``: its provider settled it by the award itself, in full, without the receipt.

    ``paid_micro`` is what the client paid for this answer, refunds taken off; ``settlement`` the entry that paid it.
    """

    verdict: _Verdict
    tab: EntryId
    award: EntryId
    client: AccountId | None = None
    provider: AccountId | None = None
    cost_micro: MicroCredits = 0
    paid_micro: MicroCredits = 0
    settlement: Count | None = None
    reason: str = ""


@app.command()
def proof(
    award: Annotated[str, typer.Argument(metavar="AWARD", help="The award of an answer.")],
    *,
    gateway: Gateway = GATEWAY,
) -> None:
    """Get the proof that a tab pays for an answer, as a file: its receipt, and where it stands under the tab's root.

    \b
      wwwmarket tab proof 5f3c…e1 > answer.json
    """  # noqa: D301 - \b keeps the examples' lines
    with GatewayClient(gateway) as client:
        got = client.get(f"/v1/receipts/{award}/tab", TabProof)
    sys.stdout.write(canonical.encode(got).decode() + "\n")


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A proof of 'tab proof'.")],
    *,
    ledger: LedgerAddress = GATEWAY,
    json: Json = False,
) -> None:
    """Check that an answer was paid, and how much, by its receipt's place under the root that its tab was settled with.

    The ledger is replayed from its first entry; give a folder of 'ledger export' to ask nobody. Leaves with 0 when the
    answer was paid, 1 when it was not, 2 when the file cannot be read.

    \b
      wwwmarket ledger export ./log
      wwwmarket tab verify answer.json --ledger ./log
    """  # noqa: D301 - \b keeps the examples' lines
    try:
        with file.open("rb") as opened:
            got = canonical.read(opened.read(_PROOF_BYTES_MAX + 1), TabProof, bytes_max=_PROOF_BYTES_MAX)
    except (OSError, Refusal) as error:
        fail(f"nothing could be verified: {error}", _UNREADABLE)
    judged = judge(got, ledger)
    if json:
        emit(judged, json)
    else:
        told = {name: value for name, value in msgspec.structs.asdict(judged).items() if value is not None}
        emit({name: told[name] for name in told if name not in {"verdict", "reason"}}, json=False)
        emit(f"verify: {judged.verdict}{f': {judged.reason}' if judged.reason else ''}", json=False)
    if judged.verdict not in {"paid", "claimed"}:
        raise typer.Exit(1)
    say("The ledger is believed as it was read; 'wwwmarket audit' checks it.")


def judge(got: TabProof, ledger: str) -> Judgement:
    """Replay the log at ``ledger`` up to its checkpoint.

    Raises:
        Refusal: the log cannot be read, an entry does not follow, or the entries are not those of the checkpoint.
    """
    state, tree = State(Registry.load()), Frontier()
    seen: OpenTab | None = None
    judged: Judgement | None = None
    with closing(open_log(ledger)) as log, progress("Reading the ledger") as tell:
        _, checkpoint = read_checkpoint(log)
        for index, leaf in entries(log, checkpoint, 0):
            tree.append(leaf_hash(leaf))
            checked = check(open_entry(leaf))
            seen = state.tab(got.tab) or seen
            before = _judged(got, seen, checked.body, index, state) if seen is not None else None
            state.apply(checked)
            judged = before or judged
            tell(index + 1, checkpoint.size)
    if tree.root() != checkpoint.root:
        raise Conflict("the entries are not those of the log's checkpoint: audit this ledger")
    return judged or _without(got, seen, is_open=state.tab(got.tab) is not None)


def _judged(got: TabProof, opened: OpenTab, body: object, index: Count, state: State) -> Judgement | None:
    """What the tab's settlement says of the answer, in the state before it; None: another entry."""
    if not isinstance(body, TabSettlement) or body.tab != got.tab:
        return None
    name, rule = name_of(got.receipt.award.body), state.rules.settlement
    told = Judgement(
        verdict="not paid",
        tab=got.tab,
        award=name,
        client=opened.client,
        provider=opened.provider,
        settlement=index,
    )
    claimed = next((one for one in body.unvouched if name_of(one.award.body) == name), None)
    if claimed is not None:
        made = worth(rule, claimed.award.body.award, claimed.attestation.body, None)
        reason = "its provider claimed it by the award itself, in full: it had no voucher for it, or held it back"
        return msgspec.structs.replace(
            told, verdict="claimed", cost_micro=made.cost_micro, paid_micro=made.paid_micro, reason=reason
        )
    if body.voucher is None:
        return msgspec.structs.replace(told, reason="the tab was settled without a voucher, and this was not claimed")
    try:
        made = verify_proof(got, opened, body.voucher.body, rule, state.account_of)
    except Refusal as refusal:
        return msgspec.structs.replace(told, reason=refusal.message)
    return msgspec.structs.replace(told, verdict="paid", cost_micro=made.cost_micro, paid_micro=made.paid_micro)


def _without(got: TabProof, seen: OpenTab | None, *, is_open: bool) -> Judgement:
    """The ledger has no settlement of that tab."""
    name = name_of(got.receipt.award.body)
    if seen is None:
        return Judgement(verdict="not paid", tab=got.tab, award=name, reason="no such tab was opened on this ledger")
    why = "the tab is still open" if is_open else "the tab ended before its provider settled it: its lock returned"
    return Judgement(
        verdict="not settled" if is_open else "not paid",
        tab=got.tab,
        award=name,
        client=seen.client,
        provider=seen.provider,
        reason=why,
    )
