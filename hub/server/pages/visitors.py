"""Who looks at pages: a token kept in a cookie that no script reads, no other site sends, and no API takes.

The cookie only lets pages be read: whatever changes something asks for the token itself, in a header.
"""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool

from adapthub.adapters.errors import Forbidden, Unauthorized
from adapthub.hub.access import Caller
from adapthub.hub.server.dependencies import TheServing, caller_with, origin
from adapthub.hub.server.pages.rendering import page
from adapthub.hub.server.serving import Serving
from adapthub.web.bodies import read_body

router = APIRouter(include_in_schema=False)

COOKIE = "adapthub_token"
_FORM_BYTES = 4096
_INSIDE = re.compile(r"/(?![/\\])[^\\\x00-\x20]*")


def _visitor(request: Request, serving: TheServing) -> Caller:
    """Raises Unauthorized for a token that no longer works, Forbidden as `TheCaller` does."""
    return caller_with(request, serving, request.cookies.get(COOKIE, ""))


TheVisitor = Annotated[Caller, Depends(_visitor)]
"""Who looks at a page. For pages that are read: nothing else may be decided by it."""


@router.api_route("/-/sign-in", methods=["GET", "HEAD"])
def sign_in_form(request: Request, next: str = "/") -> Response:
    """The form for a token."""
    return page(request, "sign_in.html", None, next=_inside(next), wrong=None)


@router.post("/-/sign-in")
async def sign_in(request: Request, serving: TheServing) -> Response:
    """Keep a token that works, and go back."""
    _check_same_site(request)
    form = parse_qs((await read_body(request, _FORM_BYTES)).decode(errors="replace"))
    token = form.get("token", [""])[0].strip()
    back = _inside(form.get("next", ["/"])[0])
    try:
        await run_in_threadpool(_check_token, request, serving, token)
    except Unauthorized as error:
        return page(request, "sign_in.html", None, status=401, next=back, wrong=str(error))
    answer = RedirectResponse(back, 303)
    answer.set_cookie(
        COOKIE, token, httponly=True, samesite="strict", secure=request.url.scheme == "https", path="/"
    )
    return answer


@router.post("/-/sign-out")
async def sign_out(request: Request) -> Response:
    """Forget the token."""
    _check_same_site(request)
    answer = RedirectResponse("/", 303)
    answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return answer


def _check_token(request: Request, serving: Serving, token: str) -> None:
    if not token:
        raise Unauthorized("there is no token in the form", hint="Paste one that begins with ah_.")
    caller_with(request, serving, token)


def _check_same_site(request: Request) -> None:
    """Raises Forbidden for a form that another site sent."""
    site = request.headers.get("sec-fetch-site")
    sender = request.headers.get("origin")
    if site not in (None, "same-origin", "none") or (site is None and sender not in (None, origin(request))):
        raise Forbidden("this form was sent from another site", hint="Open it here, and send it again.")


def _inside(address: str) -> str:
    """`address`, if it is a page of this server's, else the first one."""
    return address if _INSIDE.fullmatch(address) else "/"
