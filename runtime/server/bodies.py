"""Bodies of requests, bounded in size, in what parsing makes of them, and in the time that they may take to come.

Does not parse them.
"""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapthub.runtime.server.serving import ServerLimits

_CLOSE = {"Connection": "close"}  # what still comes of the body is not read


class BoundedBodies:
    """Middleware: a body that is larger than `limits.body_bytes`, or has more than `limits.body_parts` brackets and commas
    or `limits.body_keys` colons, is answered with 413, one that takes longer than `limits.body_seconds` with 408, before
    anything else is done with it."""

    def __init__(self, app: ASGIApp, limits: ServerLimits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await self._app(scope, self._bounded(scope, receive), send)

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        limit = self._limits.body_bytes
        # The connection stays: a client that sends before it reads would not see why it was closed.
        too_large = HTTPException(413, f"the body is larger than {limit:,} bytes")
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
        most, most_keys = self._limits.body_parts, self._limits.body_keys
        received = parts = keys = 0
        complete = False
        deadline = asyncio.get_running_loop().time() + self._limits.body_seconds

        async def bounded() -> Message:
            nonlocal received, parts, keys, complete
            if complete:  # what comes now is that the client went away, whenever that may be
                return await receive()
            if declared.isdigit() and int(declared) > limit:
                raise too_large
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                seconds = self._limits.body_seconds
                raise HTTPException(408, f"the body took longer than {seconds:g} s", _CLOSE) from None
            body = message.get("body", b"")
            received += len(body)
            if received > limit:
                raise too_large
            # Each may become an object a hundred times its size, while nothing else is answered.
            parts += sum(body.count(part) for part in (b"[", b"{", b","))
            if parts > most:
                raise HTTPException(413, f"the body has more than {most:,} brackets and commas")
            keys += body.count(b":")
            if keys > most_keys:
                raise HTTPException(413, f"the body has more than {most_keys:,} colons")
            complete = not message.get("more_body", False)
            return message

        return bounded
