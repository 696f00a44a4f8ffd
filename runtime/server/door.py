"""Who asks, found out before anything of a request's body is read, and one of their requests a minute taken.

What is refused goes on without its body: the endpoint's dependency raises the error, so that the answer has the endpoint's
shape. Does not decide what a caller may do.
"""

from __future__ import annotations

from functools import partial

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapthub.adapters.errors import AdaptHubError
from adapthub.runtime.server import same_machine
from adapthub.runtime.tenants.caller import Caller
from adapthub.runtime.tenants.gate import Gate
from adapthub.web.authorization import bearer

# Read by anybody: they say nothing of what the server has.
_OPEN = ("/", "/health", "/ready", "/openapi.json")
_PAGES = "/pages/"
# What is polled is no request that a tenant sends.
_UNCOUNTED = ("/metrics", "/api/live")


class Door:
    """Middleware: `scope["state"]["caller"]` is the Caller, or the error to refuse the request with."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or _is_open(scope):
            await self._app(scope, receive, send)
            return
        # On a thread: once in a while it asks the store.
        caller, refusal = await run_in_threadpool(self._let_in, scope)
        scope["state"]["caller"] = refusal or caller
        if refusal is not None:
            receive = _nothing
        if caller is not None:
            send = partial(self._with_allowances, caller, send)
        await self._app(scope, receive, send)

    async def _with_allowances(self, caller: Caller, send: Send, message: Message) -> None:
        """Send on, with what the caller may still use in the headers, as OpenAI's clients read them."""
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for allowance in self._gate.allowances(caller):
                headers[f"x-ratelimit-limit-{allowance.unit}"] = str(allowance.limit)
                headers[f"x-ratelimit-remaining-{allowance.unit}"] = str(allowance.remaining)
                headers[f"x-ratelimit-reset-{allowance.unit}"] = f"{round(1e3 * allowance.reset)}ms"
        await send(message)

    def _let_in(self, scope: Scope) -> tuple[Caller | None, AdaptHubError | None]:
        """Who asks, as far as that is known, and what refuses them."""
        headers = Headers(scope=scope)
        caller: Caller | None = None
        try:
            if self._gate.open:
                same_machine.check(scope["method"], headers)
            caller = self._gate.authenticate(bearer(headers))
            if scope["path"] not in _UNCOUNTED:
                self._gate.count(caller)
        except AdaptHubError as error:
            return caller, error
        return caller, None


def _is_open(scope: Scope) -> bool:
    path = scope["path"]
    return scope["method"] in ("GET", "HEAD") and (path in _OPEN or path.startswith(_PAGES))


async def _nothing() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}
