"""Errors as pages: for browsers, which say that they take HTML. Programs get them as JSON, and the protocol's addresses
never answer a page."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fastapi import Request
from starlette.responses import Response

from adapthub.hub.server.pages.rendering import page
from adapthub.hub.server.pages.visitors import COOKIE

_PROTOCOL = re.compile(r"/(api|oauth|xet)/|/[^/]+/[^/]+(/resolve/|\.git/)")
_TITLES = {
    400: "That address does not read",
    401: "The token does not work",
    403: "Not for you",
    404: "Not here",
    429: "Too many requests",
    503: "The hub cannot answer now",
}


def wants_page(request: Request) -> bool:
    """Whether the answer to `request` is for a person's eyes."""
    accepted = request.headers.get("accept", "")
    return "text/html" in accepted and not _PROTOCOL.match(request.url.path)


def failure_page(request: Request, message: str, status: int, headers: Mapping[str, str]) -> Response:
    """The error as a page, with its headers."""
    kept = {name: value for name, value in headers.items() if name.lower() != "www-authenticate"}
    signed_in = COOKIE in request.cookies
    forget = status == 401 and signed_in
    answer = page(
        request,
        "failure.html",
        None,
        status=status,
        headers=kept,
        title="Sign in first"
        if status == 401 and not signed_in
        else _TITLES.get(status, "That did not work"),
        message=message,
        signed_in=signed_in and not forget,
    )
    if forget:  # it would fail on every page
        answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return answer
