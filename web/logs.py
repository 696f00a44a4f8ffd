"""What a server says of itself: lines of JSON where programs read them, and for people lines to read.

One line a request, without a word of what was asked or answered, or of the query of an address, which may hold a secret.
Does not decide what is worth a line.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOG = logging.getLogger(__name__)
_UNSAID = ("/health", "/ready", "/metrics")  # asked every few seconds, by machines
# What is known of the request that is being answered.
_current: ContextVar[dict[str, Any] | None] = ContextVar("request", default=None)


@contextmanager
def shown(stream: TextIO) -> Iterator[None]:
    """Within: everything that is logged, uvicorn's lines too, goes to `stream`; as JSON where that is no terminal."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(ForPeople() if stream.isatty() else AsJson())
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for noisy in ("uvicorn", "httpx2", "httpcore2"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        yield
    finally:
        root.handlers[:] = before
        root.setLevel(level)


class AsJson(logging.Formatter):
    """One object a line: time (UTC), level, logger, message, and the record's `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class ForPeople(logging.Formatter):
    """Time of day, level, message and fields. What strangers wrote cannot drive the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        fields = getattr(record, "fields", {})
        said = [f"{name}={_shown(value)}" for name, value in fields.items() if value not in (None, "")]
        line = "  ".join([f"{when} {record.levelname.lower():7} {_plain(record.getMessage())}", *said])
        if not record.exc_info:
            return line
        traceback = self.formatException(record.exc_info)
        return "\n".join([line, *(_plain(part) for part in traceback.split("\n"))])


def note(**fields: Any) -> None:
    """The line of the request that is being answered is to say this too."""
    known = _current.get()
    if known is not None:
        known.update(fields)


class RequestLines:
    """Middleware: a line for every request once it is answered, its client gone or its body sent."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or scope["path"] in _UNSAID:
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        known: dict[str, Any] = {"id": None, "status": None}
        token = _current.set(known)

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                known["status"] = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            _current.reset(token)
            known["id"] = scope.get("state", {}).get("request_id")
            known["seconds"] = time.monotonic() - began
            path = scope.get("raw_path", b"").partition(b"?")[0].decode("ascii", "replace")
            _LOG.info("%s %s", scope["method"], path, extra={"fields": known})


def _shown(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else _plain(str(value))


def _plain(text: str) -> str:
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
