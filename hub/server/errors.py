"""Errors as HTTP, as the Hugging Face clients read them: a status, X-Error-Code, X-Error-Message, and a JSON body.

Does not log or register handlers (app does).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from adapthub.adapters.errors import (
    AdapterNotFound,
    AdaptHubError,
    ArtifactError,
    Conflict,
    EntryNotFound,
    Forbidden,
    InvalidInput,
    NotFound,
    Overloaded,
    RateLimited,
    RevisionNotFound,
    StorageError,
    Unauthorized,
)
from adapthub.hub.access import Gated
from adapthub.hub.gates import GateRefused
from adapthub.hub.storage.blobs import BlobLost

# The first that an error is one of: its status, and the code that clients make an exception of their own from.
_KINDS: tuple[tuple[type[AdaptHubError], int, str | None], ...] = (
    (BlobLost, 500, None),
    (Unauthorized, 401, None),
    (Gated, 403, "GatedRepo"),
    (GateRefused, 403, "GateRefused"),
    (Forbidden, 403, None),
    (RateLimited, 429, None),
    (AdapterNotFound, 404, "RepoNotFound"),
    (RevisionNotFound, 404, "RevisionNotFound"),
    (EntryNotFound, 404, "EntryNotFound"),
    (NotFound, 404, None),
    (Conflict, 409, None),
    (InvalidInput, 400, None),
    (ArtifactError, 422, None),
    (StorageError, 503, None),
    (Overloaded, 503, None),
    (AdaptHubError, 500, None),
)
_MOST = 2000  # characters of a message in a header


def status_of(error: AdaptHubError) -> int:
    """The HTTP status of an error."""
    return _kind(error)[1]


def headers_of(error: AdaptHubError) -> dict[str, str]:
    """X-Error-Code and X-Error-Message, and what else clients look for."""
    headers = message_headers(str(error), _kind(error)[2])
    if isinstance(error, RateLimited):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'Bearer realm="AdaptHub"'
    if isinstance(error, EntryNotFound) and error.commit is not None:
        headers["X-Repo-Commit"] = error.commit
    return headers


def message_headers(message: str, code: str | None = None) -> dict[str, str]:
    """The headers of a message, which may quote what the client sent: one line of what a header can hold."""
    text = " ".join(message.split())[:_MOST].encode("latin-1", errors="replace").decode("latin-1")
    text = "".join(char if char.isprintable() else "?" for char in text)
    return {"X-Error-Message": text, **({} if code is None else {"X-Error-Code": code})}


def error_body(message: str) -> Mapping[str, str]:
    """The JSON body. What is no Unicode in a message is replaced."""
    return {"error": _unicode(message)}


def own_error_body(error: AdaptHubError) -> Mapping[str, str | None]:
    """The JSON body of an error of ours, from which our client makes the very same one."""
    return {
        **error_body(str(error)),
        "kind": type(error).__name__,
        "message": _unicode(error.message),
        "hint": None if error.hint is None else _unicode(error.hint),
    }


def _unicode(text: str) -> str:
    return text.encode(errors="replace").decode()


def _kind(error: AdaptHubError) -> tuple[type[AdaptHubError], int, str | None]:
    return next(kind for kind in _KINDS if isinstance(error, kind[0]))
