"""All doors in one application."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp

import wwwmarket
from wwwmarket.domain.errors import Refusal
from wwwmarket.gateway import catalogue, governance, health, keys, ledger, market, openai, pages, tokenize
from wwwmarket.gateway.config import GatewayConfig
from wwwmarket.gateway.gate import Gate
from wwwmarket.gateway.problems import plain_response, response_of
from wwwmarket.gateway.schemas import Schemas
from wwwmarket.node.service import Service

_DESCRIPTION = (
    "A market for LLM inference that nobody owns. Amounts are integer micro-credits, times integer milliseconds, "
    "identities Ed25519 public keys as hex. Errors have OpenAI's form."
)


class Gateway(FastAPI):
    """FastAPI with the gate outside of everything, and the domain's own types in its OpenAPI document."""

    def __init__(self, config: GatewayConfig, schemas: Schemas) -> None:
        super().__init__(
            title="wwwmarket",
            version=wwwmarket.__version__,
            description=_DESCRIPTION,
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
        )
        self._config = config
        self._schemas = schemas

    def build_middleware_stack(self) -> ASGIApp:
        return Gate(super().build_middleware_stack(), self._config)

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = self._schemas.complete(super().openapi())
        return self.openapi_schema


def create_app(service: Service, *, config: GatewayConfig) -> FastAPI:
    """The gateway over one node's service."""
    schemas = Schemas()
    app = Gateway(config, schemas)
    for router in (
        openai.router(service, config, schemas),
        catalogue.router(service, schemas),
        tokenize.router(service, config, schemas),
        market.router(service, config, schemas),
        governance.router(service, config, schemas),
        keys.router(service, config, schemas),
        keys.payments(service, config, schemas),
        ledger.router(service, schemas),
        health.router(service, schemas),
        pages.router(),
    ):
        app.include_router(router)
    add_handlers(app)
    return app


def add_handlers(app: FastAPI) -> None:
    """Every refusal and every fault, as an answer."""
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _plain)
    app.add_exception_handler(ClientDisconnect, _left)
    app.add_exception_handler(Exception, _failed)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return response_of(error)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return plain_response(400, f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}")


async def _plain(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {404: "there is no such path here; see /docs", 405: "this path does not take this method"}
    message = messages.get(error.status_code, error.detail)
    return plain_response(error.status_code, message, dict(error.headers or {}))


async def _left(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # nobody is there to read it


async def _failed(_: Request, __: Exception) -> Response:
    return plain_response(500, "this node failed; its operator can see why")
