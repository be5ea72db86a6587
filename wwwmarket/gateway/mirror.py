"""A mirror's doors: it takes checkpoints (C2SP tlog-witness) and serves what it cosigned (tlog-mirror, tlog-tiles)."""

from hashlib import sha256
from http import HTTPStatus
from typing import Final

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import PlainTextResponse, Response

from wwwmarket.gateway.app import Gateway, add_handlers
from wwwmarket.gateway.config import GatewayConfig
from wwwmarket.gateway.request import read_body
from wwwmarket.gateway.response import json_response
from wwwmarket.gateway.schemas import Schemas
from wwwmarket.ledger.note import parse_verifier_key
from wwwmarket.ledger.witness import REQUEST_BYTES_MAX, SIZE_TYPE
from wwwmarket.mirror.events import Cosigned, Reason
from wwwmarket.mirror.service import MirrorService, MirrorStatus

CONFIG: Final = GatewayConfig(
    in_flight_max=64,
    connections_max=256,
    connections_per_address_max=64,
    request_bytes_max=REQUEST_BYTES_MAX,
    body_timeout_s=10.0,
)
"""A mirror is asked by one operator and read by a few auditors: no one address may keep the operator out."""

STATUS: Final[dict[Reason, HTTPStatus]] = {
    "malformed": HTTPStatus.BAD_REQUEST,
    "bad_signature": HTTPStatus.FORBIDDEN,
    "unknown_log": HTTPStatus.NOT_FOUND,
    "other_size": HTTPStatus.CONFLICT,
    "not_consistent": HTTPStatus.UNPROCESSABLE_ENTITY,
    "does_not_follow": HTTPStatus.UNPROCESSABLE_ENTITY,
    "other_time": HTTPStatus.SERVICE_UNAVAILABLE,
    "busy": HTTPStatus.SERVICE_UNAVAILABLE,
    "unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "succeeded": HTTPStatus.NOT_FOUND,
}
"""The first five are the protocol's; a mirror that replays has further reasons: entries that do not follow are as wrong
as a wrong proof, and what may pass is tried again."""

_FOR_EVER: Final = "public, max-age=31536000, immutable"
_FOR_A_MINUTE: Final = "public, max-age=60"


def create_mirror_app(service: MirrorService, *, config: GatewayConfig = CONFIG) -> FastAPI:
    """The door of one mirror. Its files are under ``/ledger``, and where tlog-mirror puts them."""
    schemas = Schemas()
    app = Gateway(config, schemas)
    app.include_router(_asking(service, config, schemas))
    origin = parse_verifier_key(service.verifier_key()).name
    for prefix in ("ledger", sha256(origin.encode()).hexdigest()):
        app.include_router(_reading(service, prefix))
    add_handlers(app)
    return app


def _asking(service: MirrorService, config: GatewayConfig, schemas: Schemas) -> APIRouter:
    doors = APIRouter(tags=["Mirror"])

    @doors.post("/add-checkpoint", response_class=PlainTextResponse)
    async def add_checkpoint(request: Request) -> Response:
        """Cosign a checkpoint, given as C2SP tlog-witness has it."""
        answer = await service.add_checkpoint(await read_body(request, config, bytes_max=config.request_bytes_max))
        if isinstance(answer, Cosigned):
            return PlainTextResponse(answer.lines)
        if answer.reason == "other_size":
            return Response(f"{answer.size}\n".encode(), STATUS[answer.reason], {"content-type": SIZE_TYPE})
        return PlainTextResponse(f"{answer.reason}: {answer.message}\n", STATUS[answer.reason])

    @doors.get("/health", responses=schemas.answers(MirrorStatus, "How this mirror is"))
    async def health() -> Response:
        return json_response(service.status())

    return doors


def _reading(service: MirrorService, prefix: str) -> APIRouter:
    doors = APIRouter(prefix=f"/{prefix}", tags=["Ledger"])

    @doors.get("/checkpoint", response_class=PlainTextResponse)
    async def checkpoint() -> Response:
        return PlainTextResponse(service.served().note, headers={"cache-control": "no-cache"})

    @doors.get("/tile/{path:path}", response_class=Response)
    async def tile(path: str) -> Response:
        content = await service.tile(f"tile/{path}")
        keep = _FOR_A_MINUTE if ".p/" in path else _FOR_EVER
        return Response(content, media_type="application/octet-stream", headers={"cache-control": keep})

    @doors.get("/vkey", response_class=PlainTextResponse)
    async def vkey() -> Response:
        return PlainTextResponse(service.verifier_key() + "\n")

    @doors.get("/succession")
    async def succession() -> Response:
        return Response(service.successions(), media_type="application/json", headers={"cache-control": "no-cache"})

    return doors
