"""The operator's doors: API keys and their budgets. All ask for the node's own admin token."""

from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Request
from msgspec import Meta, Struct
from starlette.responses import Response

from wwwmarket.domain.identity import AccountId
from wwwmarket.domain.quantity import INTEGER_MAX, MicroCredits, Millis
from wwwmarket.gateway.config import GatewayConfig
from wwwmarket.gateway.request import FORM_BYTES_MAX, decode, read_body, require_admin
from wwwmarket.gateway.response import json_response
from wwwmarket.gateway.schemas import Schemas
from wwwmarket.node.service import ApiKeyView, Service


class NewKey(Struct, forbid_unknown_fields=True, frozen=True):
    name: Annotated[str, Meta(min_length=1, max_length=64)]
    budget_micro: MicroCredits


class TopUp(Struct, forbid_unknown_fields=True, frozen=True):
    amount_micro: Annotated[int, Meta(ge=1, le=INTEGER_MAX)]


class CreatedKey(Struct, frozen=True, kw_only=True):
    """``key`` is the secret, shown this once."""

    key: str
    id: str
    name: str
    account: AccountId
    created_ms: Millis
    revoked: bool


class KeyList(Struct, frozen=True):
    data: list[ApiKeyView]


_NEW_KEY: Final = msgspec.json.Decoder(NewKey)
_TOP_UP: Final = msgspec.json.Decoder(TopUp)


def router(service: Service, config: GatewayConfig, schemas: Schemas) -> APIRouter:
    doors = APIRouter(prefix="/v1/keys", tags=["Keys"])

    @doors.post(
        "",
        responses=schemas.answers(CreatedKey, "The key, with its secret", status=201),
        status_code=201,
        openapi_extra=schemas.body(schemas.of(NewKey), example={"name": "ada", "budget_micro": 5_000_000}),
    )
    async def create(request: Request) -> Response:
        require_admin(request, service)
        new = decode(await read_body(request, config, bytes_max=FORM_BYTES_MAX), _NEW_KEY)
        secret, view = await service.create_key(new.name, new.budget_micro)
        created = CreatedKey(
            key=secret,
            id=view.id,
            name=view.name,
            account=view.account,
            created_ms=view.created_ms,
            revoked=view.revoked,
        )
        answer = json_response(created, 201)
        answer.headers["cache-control"] = "no-store"
        return answer

    @doors.get("", responses=schemas.answers(KeyList, "All keys, without their secrets"))
    async def keys(request: Request) -> Response:
        require_admin(request, service)
        return json_response(KeyList(list(await service.keys())))

    @doors.delete("/{key_id}", responses=schemas.answers(ApiKeyView, "The key, revoked"))
    async def revoke(request: Request, key_id: str) -> Response:
        require_admin(request, service)
        return json_response(await service.revoke_key(key_id))

    @doors.post(
        "/{key_id}/top-up",
        responses=schemas.answers(ApiKeyView, "The key, with more to spend"),
        openapi_extra=schemas.body(schemas.of(TopUp), example={"amount_micro": 1_000_000}),
    )
    async def top_up(request: Request, key_id: str) -> Response:
        require_admin(request, service)
        form = decode(await read_body(request, config, bytes_max=FORM_BYTES_MAX), _TOP_UP)
        return json_response(await service.top_up(key_id, form.amount_micro))

    return doors
