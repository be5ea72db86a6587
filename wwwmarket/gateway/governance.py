"""The committee's doors: who decides and what is in force; and the way of a decree to the ledger."""

from typing import Final

import msgspec
from fastapi import APIRouter, Request
from msgspec import Struct
from starlette.responses import Response

from wwwmarket.crypto.canonical import ENTRY_BYTES_MAX
from wwwmarket.domain.identity import EntryId
from wwwmarket.domain.quantity import Count
from wwwmarket.domain.records import Certified, Resolution
from wwwmarket.gateway.config import GatewayConfig
from wwwmarket.gateway.request import decode, read_body, require_admin
from wwwmarket.gateway.response import json_response
from wwwmarket.gateway.schemas import Schemas
from wwwmarket.node.service import Finality, GovernanceView, Service

_EXAMPLE: Final = {
    "resolution": {
        "body": {"kind": "mint/v1", "origin": "local.market", "number": 0, "to": "…", "amount_micro": 1_000_000},
        "signatures": [{"signer": "…", "signature": "…"}],
    }
}


class SignedDecree(Struct, forbid_unknown_fields=True, frozen=True):
    """What a quorum of the committee has signed."""

    resolution: Certified[Resolution]


class Decreed(Struct, frozen=True):
    """The decree's place on the ledger."""

    entry: EntryId
    index: Count
    finality: Finality = "none"


_DECREE: Final = msgspec.json.Decoder(SignedDecree)


def router(service: Service, config: GatewayConfig, schemas: Schemas) -> APIRouter:
    doors = APIRouter(tags=["Governance"])

    @doors.get("/v1/governance", responses=schemas.answers(GovernanceView, "The committee, and the contracts in force"))
    async def governance() -> Response:
        return json_response(service.governance())

    @doors.post(
        "/v1/decrees",
        responses=schemas.answers(Decreed, "Where it stands on the ledger"),
        openapi_extra=schemas.body({"type": "object"}, example=_EXAMPLE),
    )
    async def decree(request: Request) -> Response:
        """Write what a quorum of the committee has signed, as this node's entry; asks for the node's admin token."""
        require_admin(request, service)
        form = decode(await read_body(request, config, bytes_max=ENTRY_BYTES_MAX), _DECREE)
        place = (await service.decree(form.resolution)).body
        return json_response(Decreed(place.entry, place.index, service.finality(place.index)))

    return doors
