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
from wwwmarket.market.allowance import NO_LIMITS, Limits
from wwwmarket.node.service import AccountView, ApiKeyView, Service


class NewKey(Struct, forbid_unknown_fields=True, frozen=True):
    name: Annotated[str, Meta(min_length=1, max_length=64)]
    budget_micro: MicroCredits
    limits: Limits = NO_LIMITS


class Amount(Struct, forbid_unknown_fields=True, frozen=True):
    amount_micro: Annotated[int, Meta(ge=1, le=INTEGER_MAX)]


class Payment(Struct, forbid_unknown_fields=True, frozen=True):
    to: AccountId
    amount_micro: Annotated[int, Meta(ge=1, le=INTEGER_MAX)]


class CreatedKey(Struct, frozen=True, kw_only=True):
    """``key`` is the secret, shown this once."""

    key: str
    id: str
    name: str
    account: AccountId
    created_ms: Millis
    revoked: bool
    limits: Limits


class KeyList(Struct, frozen=True):
    data: list[ApiKeyView]


_ONCE: Final = "With an `Idempotency-Key` header the credits move once, however often the request is sent."
_NEW_KEY: Final = msgspec.json.Decoder(NewKey)
_AMOUNT: Final = msgspec.json.Decoder(Amount)
_PAYMENT: Final = msgspec.json.Decoder(Payment)
_LIMITS: Final = msgspec.json.Decoder(Limits)


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
        return _created(*await service.create_key(new.name, new.budget_micro, new.limits))

    @doors.get("", responses=schemas.answers(KeyList, "All keys, without their secrets"))
    async def keys(request: Request) -> Response:
        require_admin(request, service)
        return json_response(KeyList(list(await service.keys())))

    @doors.post(
        "/{key_id}/rotate",
        responses=schemas.answers(CreatedKey, "The key with another secret; the old one is refused now", status=201),
        status_code=201,
    )
    async def rotate(request: Request, key_id: str) -> Response:
        require_admin(request, service)
        return _created(*await service.rotate_key(key_id))

    @doors.put(
        "/{key_id}/limits",
        responses=schemas.answers(ApiKeyView, "The key, with other limits"),
        openapi_extra=schemas.body(
            schemas.of(Limits), example={"models": ["qwen3-8b"], "requests_per_minute": 60, "price_max_micro": 20_000}
        ),
    )
    async def limit(request: Request, key_id: str) -> Response:
        require_admin(request, service)
        limits = decode(await read_body(request, config, bytes_max=FORM_BYTES_MAX), _LIMITS)
        return json_response(await service.limit_key(key_id, limits))

    @doors.delete("/{key_id}", responses=schemas.answers(ApiKeyView, "The key, revoked"))
    async def revoke(request: Request, key_id: str) -> Response:
        require_admin(request, service)
        return json_response(await service.revoke_key(key_id))

    @doors.post(
        "/{key_id}/top-up",
        responses=schemas.answers(ApiKeyView, "The key, with more to spend"),
        description=_ONCE,
        openapi_extra=schemas.body(schemas.of(Amount), example={"amount_micro": 1_000_000}),
    )
    async def top_up(request: Request, key_id: str) -> Response:
        require_admin(request, service)
        form = decode(await read_body(request, config, bytes_max=FORM_BYTES_MAX), _AMOUNT)
        return json_response(await service.top_up(key_id, form.amount_micro, request.headers.get("idempotency-key")))

    @doors.post(
        "/{key_id}/refund",
        responses=schemas.answers(ApiKeyView, "The key, with less to spend"),
        description=_ONCE,
        openapi_extra=schemas.body(schemas.of(Amount), example={"amount_micro": 1_000_000}),
    )
    async def refund(request: Request, key_id: str) -> Response:
        require_admin(request, service)
        form = decode(await read_body(request, config, bytes_max=FORM_BYTES_MAX), _AMOUNT)
        return json_response(await service.refund(key_id, form.amount_micro, request.headers.get("idempotency-key")))

    return doors


def payments(service: Service, config: GatewayConfig, schemas: Schemas) -> APIRouter:
    """The node's own account pays others: a provider for its bond, a gateway for its clients."""
    doors = APIRouter(prefix="/v1/payments", tags=["Keys"])

    @doors.post(
        "",
        responses=schemas.answers(AccountView, "The node's account, after the payment"),
        description=_ONCE,
        openapi_extra=schemas.body(schemas.of(Payment), example={"to": "82cc…", "amount_micro": 1_000_000}),
    )
    async def pay(request: Request) -> Response:
        require_admin(request, service)
        form = decode(await read_body(request, config, bytes_max=FORM_BYTES_MAX), _PAYMENT)
        name = request.headers.get("idempotency-key")
        return json_response(await service.pay(form.to, form.amount_micro, name))

    return doors


def _created(secret: str, view: ApiKeyView) -> Response:
    created = CreatedKey(
        key=secret,
        id=view.id,
        name=view.name,
        account=view.account,
        created_ms=view.created_ms,
        revoked=view.revoked,
        limits=view.limits,
    )
    answer = json_response(created, 201)
    answer.headers["cache-control"] = "no-store"
    return answer
