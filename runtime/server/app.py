"""The HTTP application over one Serving: routers, keys, errors, bounds on bodies.

Answers `/health` (the process lives) and `/ready` (it takes requests) itself, without a key; everything else is in a router
of its own. Does not load a base or listen (lifecycle does).
"""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from adapthub.adapters.errors import AdaptHubError
from adapthub.runtime.server import (
    administration,
    feedback_api,
    inference,
    metrics,
    openai_audio,
    openai_chat,
    openai_completions,
    openai_embeddings,
    openai_models,
    page,
    page_api,
    release_admin,
)
from adapthub.runtime.server.dependencies import TheServing
from adapthub.runtime.server.door import Door
from adapthub.runtime.server.errors import ERRORS, body_of, error_body, headers_of, refusal_body, status_of
from adapthub.runtime.server.groups import Groups
from adapthub.runtime.server.metrics import CountedResponses, Metrics
from adapthub.runtime.server.recent import Recent
from adapthub.runtime.server.serving import Serving
from adapthub.runtime.server.traces import TraceContext, open_traces
from adapthub.web.bodies import BoundedBodies
from adapthub.web.logs import RequestLines
from adapthub.web.request_ids import HEADER, RequestIds

_LOG = logging.getLogger(__name__)


def create_app(serving: Serving) -> FastAPI:
    """The application; its routes' order is that of the document at /openapi.json."""
    app = FastAPI(title="AdaptHub", version="1", docs_url=None, redoc_url=None, responses=ERRORS)
    app.state.serving = serving
    app.add_middleware(Door, gate=serving.gate)
    app.add_middleware(BoundedBodies, bounds=serving.limits.body)
    app.add_middleware(RequestIds)
    _observe(app, serving)
    app.add_middleware(RequestLines)  # the outermost: what others refuse has a line too
    _handle_errors(app)
    add_routes(app)
    return app


def add_routes(app: FastAPI) -> None:
    """All endpoints; they find the server's state in `app.state`, once they are asked."""
    apis = (
        openai_models,
        openai_chat,
        openai_completions,
        openai_embeddings,
        openai_audio,
        inference,
    )
    for module in (*apis, feedback_api, administration, release_admin, metrics, page_api, page):
        app.include_router(module.router)

    @app.get("/health", tags=["health"])
    async def health() -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    @app.get("/ready", tags=["health"], responses={503: {"description": "Loading, or shutting down."}})
    async def ready(serving: TheServing, response: Response) -> dict[str, str]:
        """Whether requests are taken."""
        if serving.ready and not serving.draining:
            return {"status": "ready"}
        response.status_code = 503
        return {"status": "draining" if serving.draining else "loading"}


def _observe(app: FastAPI, serving: Serving) -> None:
    """Let everything that counts requests see them."""
    groups = Groups()
    app.state.metrics = Metrics(serving, groups)
    app.state.recent = Recent(groups)
    for one in (app.state.metrics, app.state.recent):
        serving.observers.append(one.observe)
        serving.counters.append(one.count)
    serving.observers.append(serving.feedback.observe)
    app.add_middleware(CountedResponses, metrics=app.state.metrics)
    app.state.traces = open_traces(serving.catalog.base_name)
    if app.state.traces is not None:
        serving.observers.append(app.state.traces.observe)
        app.add_middleware(TraceContext)


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(AdaptHubError)
    async def ours(_: Request, error: AdaptHubError) -> JSONResponse:
        if status_of(error) == 500:
            _LOG.error("a request failed", exc_info=error)
        return JSONResponse(body_of(error), status_of(error), dict(headers_of(error)))

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        first: dict[str, Any] = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body") or None
        if first["type"] == "extra_forbidden":
            message = f"Unrecognized request argument supplied: {where}"
        elif first["type"] == "json_invalid":
            message, where = f"the body is not JSON: {first['ctx']['error']}", None
        elif first["loc"] == ("body",) and first["type"] == "missing":
            message = "the body is missing"
        else:
            message = f"{where}: {first['msg']}" if where else str(first["msg"])
        return JSONResponse(error_body(message, "invalid_request_error", param=where), 400)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {request.url.path}: {error.detail}"
        return JSONResponse(refusal_body(message), error.status_code, dict(error.headers or {}))

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=499)  # which nobody reads

    @app.exception_handler(Exception)
    async def defect(request: Request, error: Exception) -> JSONResponse:
        # Outside all middleware: the id is not there yet.
        id = {HEADER: request.scope["state"]["request_id"]}
        body = error_body(f"the server failed: {type(error).__name__}", "server_error", code="internal_error")
        return JSONResponse(body, 500, id)
