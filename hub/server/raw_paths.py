"""Paths as clients wrote them: a revision `feat/x` comes as `feat%2Fx`, one part of the path, and must stay one until it has
been matched. Each part that an endpoint takes is unquoted there (dependencies).
"""

from __future__ import annotations

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from adapthub.hub.server.errors import error_body, message_headers


class RawPaths:
    """Middleware: routes are matched on the path before it is unquoted."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "http" and scope.get("raw_path"):
            raw: bytes = scope["raw_path"]
            if b"%00" in raw or b"%00" in scope.get(
                "query_string", b""
            ):  # which no database and no file system takes
                message = "the address has a NUL"
                await JSONResponse(error_body(message), 400, message_headers(message))(scope, receive, send)
                return
            scope = {**scope, "path": raw.partition(b"?")[0].decode("latin-1")}
        await self._app(scope, receive, send)
