"""Paths as clients wrote them: a revision `feat/x` comes as `feat%2Fx`, one part of the path, and must stay one until it has
been matched. Each part that an endpoint takes is unquoted there (dependencies).
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class RawPaths:
    """Middleware: routes are matched on the path before it is unquoted."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "http" and scope.get("raw_path"):
            raw: bytes = scope["raw_path"]
            scope = {**scope, "path": raw.partition(b"?")[0].decode("latin-1")}
        await self._app(scope, receive, send)
