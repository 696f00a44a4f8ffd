"""Bodies of requests, bounded in size, in what parsing makes of them, and in the time that they may take to come.

Does not parse them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from math import inf

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_STATE = "body"
_CLOSE = {"Connection": "close"}  # what still comes of the body is not read


@dataclass(frozen=True)
class Bounds:
    """What a body may be: `size` bytes; `seconds` that it may take, and one more for every `rate` bytes that have come;
    `parts`, brackets and commas, and `keys`, colons: each may become an object a hundred times its size, while nothing else
    is answered."""

    size: int
    seconds: float
    rate: float = inf
    parts: float = inf
    keys: float = inf


class BoundedBodies:
    """Middleware: a body that is larger than `bounds` is answered with 413, one that is slower with 408, before anything
    else is done with it; unless who reads it takes `pieces` of a larger one."""

    def __init__(self, app: ASGIApp, bounds: Bounds) -> None:
        self._app = app
        self._bounds = bounds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "http":
            receive = _Body(self._bounds, Headers(scope=scope), receive)
            scope.setdefault("state", {})[_STATE] = receive
        await self._app(scope, receive, send)


async def read_body(request: Request, most: int) -> bytes:
    """The whole body, of at most `most` bytes. Raises HTTPException as `pieces`."""
    return b"".join([piece async for piece in pieces(request, most)])


async def pieces(request: Request, most: int, *, seconds: float | None = None) -> AsyncIterator[bytes]:
    """The body as it comes; within `seconds` in all, where they are given. Raises HTTPException: 413 where it has more than
    `most` bytes, 408 where it is too slow."""
    bound(request, most, seconds=seconds)
    async for piece in request.stream():
        yield piece


def bound(request: Request, most: int, *, seconds: float | None = None) -> None:
    """Before it is read: the body may have `most` bytes. With `seconds` it is no text, and nothing but both bounds it."""
    body: _Body = request.scope["state"][_STATE]
    body.bounds = replace(body.bounds, size=most) if seconds is None else Bounds(most, seconds)


def too_large(most: int) -> HTTPException:
    """413, for a body that is. The connection stays: a client that sends before it reads would not see why it was closed."""
    return HTTPException(413, f"the body is larger than {most:,} bytes")


class _Body:
    """What a request's body is received by, and what has come of it."""

    def __init__(self, bounds: Bounds, headers: Headers, receive: Receive) -> None:
        self.bounds = bounds
        self._receive = receive
        declared = headers.get("content-length", "")
        self._declared = int(declared) if declared.isdecimal() else 0
        self._began = asyncio.get_running_loop().time()
        self._size = self._parts = self._keys = 0
        self._complete = False

    async def __call__(self) -> Message:
        """The next message. Raises HTTPException."""
        if self._complete:  # what comes now is that the client went away, whenever that may be
            return await self._receive()
        if self._declared > self.bounds.size:
            raise too_large(self.bounds.size)
        allowed = self.bounds.seconds + self._size / self.bounds.rate
        try:
            async with asyncio.timeout_at(self._began + allowed):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, f"the body took longer than {allowed:g} s", _CLOSE) from None
        self._take(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        return message

    def _take(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self.bounds.size:
            raise too_large(self.bounds.size)
        if self.bounds.parts < inf:
            self._parts += sum(piece.count(part) for part in (b"[", b"{", b","))
            if self._parts > self.bounds.parts:
                raise HTTPException(413, f"the body has more than {self.bounds.parts:,} brackets and commas")
        if self.bounds.keys < inf:
            self._keys += piece.count(b":")
            if self._keys > self.bounds.keys:
                raise HTTPException(413, f"the body has more than {self.bounds.keys:,} colons")
