"""Errors as HTTP: which status an error of ours has, and its body in the shape of OpenAI's API.

Does not log or register handlers (app does).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from adapthub.adapters.errors import (
    AdaptHubError,
    ArtifactError,
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    OutOfMemory,
    Overloaded,
    QuotaExceeded,
    RateLimited,
    SamplingError,
    Unauthorized,
)


class RefusedRequest(InvalidInput):
    """A field of a request, `param`, that cannot be what it is; `code` as OpenAI's clients know it."""

    def __init__(
        self, message: str, *, hint: str | None = None, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.param = param
        self.code = code


# The first that an error is one of: status, OpenAI's type, and its code.
_KINDS: tuple[tuple[type[AdaptHubError], int, str, str | None], ...] = (
    (Unauthorized, 401, "invalid_request_error", "invalid_api_key"),
    (Forbidden, 403, "permission_error", "forbidden"),
    (QuotaExceeded, 429, "insufficient_quota", "insufficient_quota"),
    (RateLimited, 429, "rate_limit_error", "rate_limit_exceeded"),
    (Overloaded, 503, "server_error", "overloaded"),
    (OutOfMemory, 503, "server_error", "out_of_memory"),
    (NotFound, 404, "invalid_request_error", "model_not_found"),
    (Conflict, 409, "invalid_request_error", "conflict"),
    (InvalidInput, 400, "invalid_request_error", None),
    (ArtifactError, 400, "invalid_request_error", "adapter_unusable"),
    (SamplingError, 400, "invalid_request_error", "sampling_failed"),  # by settings, a grammar, or an adapter
    (AdaptHubError, 500, "server_error", "internal_error"),
)
_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "integer", "null"]},
            },
        }
    },
}
# What every route says of errors in the document at /openapi.json.
_REFUSALS: dict[int | str, str] = {
    400: "What was sent cannot be used; `param` names the field.",
    401: "No key, or one that is unknown, expired or revoked.",
    403: "The key may not do this.",
    404: "No such model.",
    408: "The body took too long to come.",
    409: "In conflict with what is there.",
    413: "The body is too large.",
    429: "Over a limit or a quota: Retry-After says when to come back.",
    500: "The server failed.",
    503: "Overloaded, out of memory or shutting down: Retry-After says when to come back.",
    "4XX": "The request was refused.",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/json": {"schema": _SCHEMA}}}
    for status, text in _REFUSALS.items()
}
_RETRY_AFTER = 1  # seconds, where an error does not say


def status_of(error: AdaptHubError) -> int:
    """The HTTP status of an error."""
    return _kind(error)[1]


def body_of(error: AdaptHubError, *, param: str | None = None) -> dict[str, Any]:
    """The JSON body: OpenAI's error object."""
    _, _, type_, code = _kind(error)
    if isinstance(error, RefusedRequest):
        param, code = error.param, error.code
    return error_body(str(error), type_, code=code, param=param)


def headers_of(error: AdaptHubError) -> Mapping[str, str]:
    """Retry-After where trying again helps, WWW-Authenticate where a key is missing."""
    if isinstance(error, RateLimited):
        return {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
    if isinstance(error, Overloaded | OutOfMemory):
        return {"Retry-After": str(_RETRY_AFTER)}
    if isinstance(error, Unauthorized):
        return {"WWW-Authenticate": "Bearer"}
    return {}


def error_body(
    message: str, type_: str, *, code: str | int | None = None, param: str | None = None
) -> dict[str, Any]:
    """OpenAI's error object; vLLM has a status as its code. What is no Unicode in a message, which may quote the client, is
    replaced."""
    message = message.encode(errors="replace").decode()
    return {"error": {"message": message, "type": type_, "param": param, "code": code}}


def refusal_body(message: str) -> dict[str, Any]:
    """OpenAI's error object for a request that is none."""
    return error_body(message, "invalid_request_error")


def _kind(error: AdaptHubError) -> tuple[type[AdaptHubError], int, str, str | None]:
    return next(kind for kind in _KINDS if isinstance(error, kind[0]))
