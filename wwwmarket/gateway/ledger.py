"""The ledger's doors: the log as static files, and proofs of what is in it, in the C2SP formats (tlog-tiles,
tlog-checkpoint, signed-note, tlog-proof).
"""

from typing import Annotated, Final

from fastapi import APIRouter, Path
from starlette.responses import PlainTextResponse, Response

from wwwmarket.domain.quantity import INTEGER_MAX
from wwwmarket.gateway.request import account_id
from wwwmarket.gateway.schemas import Schemas
from wwwmarket.ledger.proof_file import MEDIA_TYPE
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
        "/final",
        response_class=PlainTextResponse,
        responses=schemas.answers_as("text/plain", text, "The latest final checkpoint, with its quorum's cosignatures"),
    )
    async def final() -> Response:
        return Response(
            service.final_checkpoint(),
            media_type="text/plain; charset=utf-8",
            headers={"cache-control": "no-cache"},
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

    @doors.get(
        "/succession",
        responses=schemas.answers_as("application/json", {"type": "array"}, "How the log changed hands, oldest first"),
    )
    async def succession() -> Response:
        return Response(service.successions(), media_type="application/json", headers={"cache-control": "no-cache"})

    _add_proofs(doors, service, schemas)
    return doors


def _add_proofs(doors: APIRouter, service: Service, schemas: Schemas) -> None:
    proof = schemas.answers_as("text/plain", {"type": "string"}, "A proof (C2SP tlog-proof), for 'wwwmarket verify'")

    @doors.get("/proof/entry/{index}", response_class=PlainTextResponse, responses=proof)
    async def entry_proof(index: Annotated[int, Path(ge=0, le=INTEGER_MAX)]) -> Response:
        """An entry, proven to stand in the ledger under a final checkpoint."""
        return _proof_file(await service.entry_proof(index), f"entry-{index}")

    @doors.get("/proof/account/{account}", response_class=PlainTextResponse, responses=proof)
    async def account_proof(account: str) -> Response:
        """A balance, or that there is none, proven to be in the state under the latest final checkpoint."""
        name = account_id(account)
        return _proof_file(await service.account_proof(name), f"account-{name[:16]}")


def _proof_file(content: bytes, name: str) -> Response:
    headers = {"content-disposition": f'inline; filename="{name}.tlog-proof"', "cache-control": "no-cache"}
    return Response(content, media_type=MEDIA_TYPE, headers=headers)
