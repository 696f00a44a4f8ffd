"""The HTTP application over one Serving: its routers, errors, and paths as they were written.

A new part of the hub is a module with a `router`, added to ROUTERS. Does not open a hub or listen (lifecycle does).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute

from adapthub.adapters.errors import AdaptHubError
from adapthub.hub.server import (
    account_api,
    adapters_api,
    alias_api,
    audit_api,
    bases_api,
    bundle_api,
    diff_api,
    info_api,
    leaderboard_api,
    lfs_api,
    lfs_transfer_api,
    login_api,
    namespace_api,
    parts_api,
    publish_api,
    refs_api,
    registry_api,
    relations_api,
    repo_api,
    resolve_api,
    review_api,
    rewriting_api,
    tree_api,
    upload_api,
)
from adapthub.hub.server.errors import error_body, headers_of, message_headers, own_error_body, status_of
from adapthub.hub.server.pages import failures
from adapthub.hub.server.pages import routes as pages
from adapthub.hub.server.rates import RateHeaders
from adapthub.hub.server.raw_paths import RawPaths
from adapthub.hub.server.serving import Serving
from adapthub.hub.server.xet import xet_router
from adapthub.web.bodies import BoundedBodies
from adapthub.web.logs import RequestLines
from adapthub.web.request_ids import HEADER, RequestIds

_LOG = logging.getLogger(__name__)

# The first route that fits answers: what begins with two free parts comes last.
ROUTERS = (
    account_api,
    login_api,
    registry_api,
    publish_api,
    parts_api,
    alias_api,
    bundle_api,
    audit_api,
    namespace_api,
    review_api,
    adapters_api,
    bases_api,
    leaderboard_api,
    relations_api,
    diff_api,
    repo_api,
    refs_api,
    rewriting_api,
    tree_api,
    upload_api,
    info_api,
    lfs_api,
    lfs_transfer_api,
    resolve_api,
)


_HEALTH = APIRouter(tags=["health"])


@_HEALTH.get("/health")
async def health() -> dict[str, str]:
    """The process lives."""
    return {"status": "ok"}


def create_app(serving: Serving) -> FastAPI:
    """The application."""
    app = FastAPI(title="AdaptHub hub", version="1", docs_url=None, redoc_url=None)
    # Not by `routes=`, which would be asked before /openapi.json: a page has every address of one part.
    app.router.routes.extend(_routes())
    app.state.serving = serving
    app.state.xet = serving.xet
    app.add_middleware(BoundedBodies, bounds=serving.limits.body)
    app.add_middleware(RawPaths)
    app.add_middleware(RateHeaders)
    app.add_middleware(RequestIds)
    app.add_middleware(RequestLines)  # the outermost: what others refuse has a line too
    _handle_errors(app)
    return app


@cache
def _routes() -> Sequence[BaseRoute]:
    """What is the same for every hub of the process: FastAPI takes a quarter of a second to read the parameters of all."""
    router = APIRouter()
    for module in ROUTERS:
        router.include_router(module.router)
    router.include_router(xet_router)
    router.include_router(_HEALTH)
    for module in pages.MODULES:  # last of all: their addresses are repositories' names
        router.include_router(module.router)
    return router.routes


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(AdaptHubError)
    async def ours(request: Request, error: AdaptHubError) -> Response:
        if status_of(error) >= 500:
            _LOG.error("a request failed: %s", error, exc_info=error if status_of(error) == 500 else None)
        if failures.wants_page(request):
            return failures.failure_page(request, str(error), status_of(error), headers_of(error))
        return JSONResponse(own_error_body(error), status_of(error), headers_of(error))

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part not in ("body", "path", "query"))
        return _refusal(request, f"{where}: {first['msg']}" if where else str(first["msg"]), 400)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        message = f"{request.method} {request.url.path}: {error.detail}"
        answer = _refusal(request, message, error.status_code)
        if error.status_code == 404:  # no route: of a repository without a namespace, say
            answer.headers["X-Error-Code"] = "RepoNotFound"
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=499)  # which nobody reads

    @app.exception_handler(Exception)
    async def defect(request: Request, error: Exception) -> Response:
        answer = _refusal(request, f"the server failed: {type(error).__name__}", 500)
        answer.headers[HEADER] = request.scope["state"]["request_id"]  # outside all middleware
        return answer


def _refusal(request: Request, message: str, status: int) -> Response:
    """What is no error of ours, as JSON; as a page, where a browser asked for one."""
    headers = message_headers(message)
    if failures.wants_page(request):
        return failures.failure_page(request, message, status, headers)
    return JSONResponse(error_body(message), status, headers)
