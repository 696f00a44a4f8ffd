"""Every request gets an id, which its answer has in the header X-Request-Id.

Does not log. An answer that is generated has the same id in the record of what it used.
"""

from __future__ import annotations

from uuid import uuid4

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-request-id"


class RequestIds:
    """Middleware: `scope["state"]["request_id"]`, and the header of the answer unless it has one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        id = uuid4().hex
        scope.setdefault("state", {})["request_id"] = id

        async def with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).setdefault(HEADER, id)
            await send(message)

        await self._app(scope, receive, with_id)
