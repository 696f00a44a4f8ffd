"""How many requests a caller may make in a while: counted by token, or by address without one, in each server process apart.

Windows begin for everybody at once, so that what is counted goes whole. Uploads and downloads whose addresses are signed are
not counted: the requests that gave out the addresses were.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapthub.adapters.errors import RateLimited

_MOST_CALLERS = 100_000  # that are counted apart; those beyond share what one may do
_STATE = "rate"


@dataclass(frozen=True)
class Rate:
    """How many requests of `most` a caller may still make in this window, and the seconds until the next."""

    most: int
    window: int
    remaining: int
    reset: int

    @property
    def headers(self) -> dict[str, str]:
        """As the IETF's draft and Hugging Face's clients have them."""
        return {
            "RateLimit": f'"api";r={self.remaining};t={self.reset}',
            "RateLimit-Policy": f'"fixed window";"api";q={self.most};w={self.window}',
        }


class Rates:
    """At most `most` requests of one caller in `window` seconds. `now`: the time in seconds."""

    def __init__(self, most: int, window: int, *, now: Callable[[], float] = time.time) -> None:
        self._most = most
        self._window = window
        self._now = now
        self._lock = threading.Lock()
        self._began = 0
        self._counts: dict[str, int] = {}

    def count(self, caller: str) -> Rate:
        """Count a request, which is one too many where `remaining` is below 0."""
        now = self._now()
        with self._lock:
            if int(now // self._window) != self._began:
                self._began = int(now // self._window)
                self._counts.clear()
            if caller not in self._counts and len(self._counts) >= _MOST_CALLERS:
                caller = ""
            self._counts[caller] = self._counts.get(caller, 0) + 1
            remaining = self._most - self._counts[caller]
        return Rate(self._most, self._window, remaining, math.ceil(self._window - now % self._window))


def enforce(rates: Rates | None, scope: Scope, caller: str) -> None:
    """Count a request of `caller`. Raises RateLimited where it is one too many."""
    if rates is None:
        return
    rate = rates.count(caller)
    over = rate.remaining < 0
    scope["state"][_STATE] = Rate(rate.most, rate.window, max(0, rate.remaining), rate.reset)
    if over:
        raise RateLimited(
            f"more than {rate.most} requests in {rate.window} s",
            retry_after=rate.reset,
            hint="Wait, or log in for requests of your own.",
        )


class RateHeaders:
    """Middleware: answers say what is left of the caller's requests, where they are counted."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        state = scope.setdefault("state", {})

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start" and _STATE in state:
                message = {**message, "headers": [*message["headers"], *_encoded(state[_STATE].headers)]}
            await send(message)

        await self._app(scope, receive, with_headers)


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]
