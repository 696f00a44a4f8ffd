"""Server-sent events: how they are written, and a response that sends them as they come.

Does not know what they say.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

# One object as JSON, on one line: what is sent once a token shall cost little.
to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
DONE = "data: [DONE]\n\n"


def sse(data: str) -> str:
    """One event with one line of `data`."""
    return f"data: {data}\n\n"


class EventStream(StreamingResponse):
    """Sends what `events` yields, each at once. However it ends, a client that goes away included, `leave` is called."""

    def __init__(self, events: AsyncGenerator[str, None], leave: Callable[[], Awaitable[None]]) -> None:
        super().__init__(
            events,
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )
        self._events = events
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. Starlette cancels the sending when the client goes away, even before it began."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()
            await self._leave()
