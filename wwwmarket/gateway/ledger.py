"""The ledger's doors: the log as static files, in the C2SP formats (tlog-tiles, tlog-checkpoint, signed-note)."""

from typing import Final

from fastapi import APIRouter
from starlette.responses import PlainTextResponse, Response

from wwwmarket.gateway.schemas import Schemas
from wwwmarket.node.service import Service

_FOR_EVER: Final = "public, max-age=31536000, immutable"
_FOR_A_MINUTE: Final = "public, max-age=60"
"""A partial tile never changes either, but is gone once its full tile is there (tlog-tiles, "Partial Tiles")."""


def router(service: Service, schemas: Schemas) -> APIRouter:
    doors = APIRouter(prefix="/ledger", tags=["Ledger"])
    text = {"type": "string"}

    @doors.get(
        "/checkpoint",
        response_class=PlainTextResponse,
        responses=schemas.answers_as("text/plain", text, "The latest checkpoint, a signed note"),
    )
    async def checkpoint() -> Response:
        return Response(
            await service.checkpoint(), media_type="text/plain; charset=utf-8", headers={"cache-control": "no-cache"}
        )

    @doors.get(
        "/tile/{path:path}",
        response_class=Response,
        responses=schemas.answers_as("application/octet-stream", text, "A tile of hashes, or a bundle of entries"),
    )
    async def tile(path: str) -> Response:
        tile = await service.tile(f"tile/{path}")
        keep = _FOR_A_MINUTE if ".p/" in path else _FOR_EVER
        return Response(tile, media_type="application/octet-stream", headers={"cache-control": keep})

    @doors.get(
        "/vkey",
        response_class=PlainTextResponse,
        responses=schemas.answers_as("text/plain", text, "The log's verifier key"),
    )
    async def vkey() -> Response:
        return Response(service.verifier_key() + "\n", media_type="text/plain; charset=utf-8")

    return doors
