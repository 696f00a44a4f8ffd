"""Bodies of requests, bounded in size and in the time that they may take to come. Does not parse them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapthub.hub.server.serving import Limits

_STATE = "body"
_OWN_BOUNDS = "/xet/"  # has others (xet.limits)


@dataclass
class _Body:
    most: int
    received: int = 0
    complete: bool = False


class BoundedBodies:
    """Middleware: a body of more than `json_bytes`, unless who reads it takes `pieces` of a larger one, is answered with 413
    before more than that was read; one that takes longer than `body_seconds` and comes slower than `body_rate` with 408."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or scope["path"].startswith(_OWN_BOUNDS):
            await self._app(scope, receive, send)
            return
        body = scope.setdefault("state", {})[_STATE] = _Body(self._limits.json_bytes)
        await self._app(scope, self._bounded(body, receive), send)

    def _bounded(self, body: _Body, receive: Receive) -> Receive:
        limits = self._limits
        began = asyncio.get_running_loop().time()

        async def bounded() -> Message:
            if body.complete:  # what comes now is that the client went away, whenever that may be
                return await receive()
            try:
                async with asyncio.timeout_at(began + limits.body_seconds + body.received / limits.body_rate):
                    message = await receive()
            except TimeoutError:
                words = f"the body comes slower than {limits.body_rate:,} bytes a second"
                raise HTTPException(408, words, {"Connection": "close"}) from None
            body.received += len(message.get("body", b""))
            if body.received > body.most:
                raise too_large(body.most)
            body.complete = not message.get("more_body", False)
            return message

        return bounded


async def read_body(request: Request, most: int) -> bytes:
    """The whole body, of at most `most` bytes. Raises HTTPException as `pieces`."""
    return b"".join([piece async for piece in pieces(request, most)])


async def pieces(request: Request, most: int) -> AsyncIterator[bytes]:
    """The body as it comes. Raises HTTPException: 413 where it has more than `most` bytes, 408 where it is too slow."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        raise too_large(most)
    body: _Body = request.scope["state"][_STATE]
    body.most = most
    async for piece in request.stream():
        yield piece


def too_large(most: int) -> HTTPException:
    """413, for a body that is."""
    return HTTPException(413, f"the body is larger than {most:,} bytes")
