"""``wwwmarket provider reputation``: what the ledger says that a provider is known for."""

from typing import Annotated, Final

import typer

from wwwmarket.cli.amounts import credits_text
from wwwmarket.cli.client import GatewayClient
from wwwmarket.cli.options import GATEWAY, Gateway, Json
from wwwmarket.cli.output import emit
from wwwmarket.node.service import NodeStatus, ProviderView

_MILLI: Final = 1_000


def reputation(
    provider: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="The provider's account, as hex; else the node's own.")
    ] = None,
    *,
    gateway: Gateway = GATEWAY,
    json: Json = False,
) -> None:
    """What a provider is known for: work kept and missed, silence, penalties, fading by half in 30 days.

    Replayed from the ledger: every node says the same. The score is a share; a newcomer has 0.800000.
    """
    with GatewayClient(gateway) as client:
        name = provider or client.get("/v1/status", NodeStatus).account
        view = client.get(f"/v1/providers/{name}", ProviderView)
    if json or view.reputation is None:
        emit(view, json)
        return
    known, standing = view.reputation, view.reputation.standing
    emit(
        {
            "provider": view.id,
            "score": f"{known.score_ppm / 1_000_000:.6f}",
            "newcomer": known.newcomer,
            "kept": credits_text(standing.kept_micro),
            "missed": credits_text(standing.missed_micro),
            "silent": credits_text(standing.silent_micro),
            "penalised": credits_text(standing.penalised_micro),
            "settled": standing.served_milli // _MILLI,
            "failed": standing.failed_milli // _MILLI,
            "counts differed": standing.contested_milli // _MILLI,
            "bonded": credits_text(view.bonded_micro),
            "offers": len(view.offers),
            "machines": len(view.keys.machines),
        },
        json,
    )
