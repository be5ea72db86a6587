"""``wwwmarket explain``: why an award went where it went."""

from typing import Annotated, Any, Final

import typer

from wwwmarket.cli.client import GatewayClient
from wwwmarket.cli.options import GATEWAY, Gateway, Json
from wwwmarket.cli.output import emit, printable
from wwwmarket.domain.errors import NotFound
from wwwmarket.market.auction import JudgedAsk
from wwwmarket.market.recount import Recount, Source
from wwwmarket.node.service import Explanation, Finality, ReceiptView

_SOURCES: Final[dict[Source, str]] = {
    "tokenizer": "a pinned tokenizer",
    "own_engine": "this node's own engine",
    "bytes": "its bytes, for want of a tokenizer",
}
RULE: Final = (
    "The lowest score wins (price plus the client's value of the predicted time), and is paid the price at which it "
    "would just have tied with the runner-up: never less than it asked, never more than its own list price."
)

_FINALITIES: Final[dict[Finality, str]] = {
    "none": "",
    "pending": ", pending until a quorum of mirrors has cosigned it",
    "final": ", final",
}


def explain(
    award: Annotated[str, typer.Argument(metavar="AWARD", help="The award's id, as answers and headers carry it.")],
    *,
    gateway: Gateway = GATEWAY,
    json: Json = False,
) -> None:
    """Show an auction as it was decided: every provider that was asked, what it asked, why it won or lost.

    \b
      wwwmarket explain 4f0c… --gateway http://127.0.0.1:8080
      wwwmarket explain 4f0c… --json | jq '.asks[].reason'
    """  # noqa: D301 - \b keeps the examples' lines
    with GatewayClient(gateway) as client:
        told = client.get(f"/v1/awards/{award}", Explanation)
        receipt = find_receipt(client, award)
    if json:
        emit({**_fields(told), "receipt": receipt, "rule": RULE}, json)
        return
    emit(summary(told, receipt), json)
    emit([row(ask) for ask in told.asks], json)
    emit(RULE, json)


def find_receipt(client: GatewayClient, award: str) -> ReceiptView | None:
    """An award's receipt; None while there is none."""
    try:
        return client.get(f"/v1/receipts/{award}", ReceiptView)
    except NotFound:
        return None


def row(ask: JudgedAsk) -> dict[str, object]:
    """One provider's part of an auction, as a line of a table."""
    body = None if ask.ask is None else ask.ask.body
    return {
        "provider": ask.provider[:12],
        "verdict": ask.verdict,
        "expected_cost_micro": ask.cost_micro,
        "score": ask.score,
        "input_micro_per_mtok": body and body.prices.input_micro_per_mtok,
        "output_micro_per_mtok": body and body.prices.output_micro_per_mtok,
        "predicted_ttft_ms": body and body.predicted_ttft_ms,
        "predicted_finish_ms": body and body.predicted_finish_ms,
        "reason": ask.reason,
    }


def summary(told: Explanation, receipt: ReceiptView | None) -> dict[str, object]:
    """What became of an award, in a few fields."""
    return {
        "award": told.id,
        "status": told.status,
        "finality": told.finality,
        "model": told.bid.model.name,
        "winner": told.award.winner.signer,
        "cleared_at": told.award.prices,
        "locked_micro": told.award.locked_micro,
        "cost_micro": told.cost_micro,
        "usage": told.usage,
        "recount": None if told.recount is None else recount_text(told.recount),
        "ttft_ms": told.ttft_ms,
        "latency_ms": told.latency_ms,
        "auction": f"{told.auction_ms:.1f} ms, {len(told.asks)} asked",
        "attempts": len(told.attempts) or None,
        "receipt": None if receipt is None else _receipt_text(receipt),
    }


def recount_text(recount: Recount) -> str:
    """This node's own count, and what it came to."""
    own = recount.output_tokens
    seen = "not to be counted from outside" if own is None else f"{own} output tokens"
    bound = "at most " if recount.source == "bytes" and own is not None else ""
    verdict = "the provider counted more: paid by the own count" if recount.beyond else "agrees with the provider's"
    return f"{bound}{seen}, by {_SOURCES[recount.source]}; {verdict}"


def _receipt_text(receipt: ReceiptView) -> str:
    verdict = "unsigned" if receipt.receipt is None else receipt.receipt.body.verdict
    settled = "not yet settled" if receipt.settlement_index is None else f"settled by entry {receipt.settlement_index}"
    return printable(f"{verdict}, {settled}{_FINALITIES[receipt.finality]}")


def why(told: Explanation) -> str:
    """Why the winner won, in a few words."""
    ranked = [ask for ask in told.asks if ask.score is not None]
    place = next((at for at, ask in enumerate(ranked) if ask.provider == told.award.winner.signer), None)
    if place:
        return f"the next-best ask, after {place} that could not start"
    rival = next((ask for ask in ranked if ask.verdict == "runner_up"), None)
    if place is None or rival is None:
        return f"the only eligible ask of {len(told.asks)}"
    return f"score {ranked[0].score:,} against {rival.score:,} of the runner-up, {len(told.asks)} asked"


def _fields(value: Any) -> dict[str, object]:
    return {name: getattr(value, name) for name in value.__struct_fields__}
