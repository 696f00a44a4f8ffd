"""`hf auth login` without a token: a code to show, a page to type it on, and the token once somebody allowed it."""

from __future__ import annotations

from html import escape
from typing import Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.concurrency import run_in_threadpool

from adapthub.adapters.errors import AdaptHubError, RateLimited
from adapthub.hub import logins
from adapthub.hub.accounts import find_token
from adapthub.hub.audit import Actor
from adapthub.hub.server import rates
from adapthub.hub.server.dependencies import TheServing, address_of, origin
from adapthub.hub.server.errors import headers_of, status_of
from adapthub.hub.server.serving import Serving
from adapthub.hub.storage.retrying import retried
from adapthub.web.bodies import read_body

router = APIRouter(tags=["accounts"])

_INTERVAL = 1  # seconds between two questions of a device
_FORM_BYTES = 4096
_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Allow a login</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body {{font: 1rem/1.5 system-ui, sans-serif; max-width: 32rem; margin: 3rem auto; padding: 0 1rem}}
label, input {{display: block; width: 100%; box-sizing: border-box; font: inherit}} input {{margin: .2rem 0 1rem}}</style>
<h1>Allow a login</h1><p role="status">{message}</p>
<form method="post" action="/oauth/activate" autocomplete="off">
<label for="code">The code that the device shows</label><input id="code" name="user_code" value="{code}" required>
<label for="token">A token of yours on this hub; the device gets one of its own, of the same account and scope</label>
<input id="token" name="token" type="password" required>
<button name="answer" value="allow">Allow</button> <button name="answer" value="deny">Deny</button></form>
<p>Whoever runs this hub can allow it too:
<code>adapt hub login allow {shown} --account NAME --scope write</code></p></html>"""
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}


@router.post("/oauth/device")
@retried
def device(request: Request, serving: TheServing) -> dict[str, Any]:
    """A code for a device to show, and a secret for it to poll with."""
    _count(request, serving)
    with serving.store.database.writing() as session:
        waiting = logins.begin(session, address_of(request))
    page = f"{origin(request)}/oauth/activate"
    return {
        "device_code": waiting.secret,
        "user_code": waiting.code,
        "verification_uri": page,
        "verification_uri_complete": f"{page}?user_code={waiting.code}",
        "expires_in": int(logins.LIFETIME.total_seconds()),
        "interval": _INTERVAL,
    }


@router.post("/oauth/token")
async def token(request: Request, serving: TheServing) -> JSONResponse:
    """The device's token, once its login was allowed."""
    try:
        _count(request, serving)
    except RateLimited as error:
        return JSONResponse({"error": "slow_down"}, 429, headers_of(error))
    form = await _form(request)
    if form.get("grant_type") != _GRANT:
        # A token of this hub works until it is revoked: there is nothing to refresh.
        return JSONResponse({"error": "unsupported_grant_type"}, 400)

    @retried
    def poll() -> str | logins.Outcome:
        secret = form.get("device_code", "")
        with serving.store.database.reading() as session:
            waits = logins.waiting_for(session, secret)
        if waits is not None:
            return waits  # devices ask every second: most of them take no writer's turn
        with serving.store.database.writing() as session:
            return logins.take(session, secret)

    found = await run_in_threadpool(poll)
    if isinstance(found, logins.Outcome):
        return JSONResponse({"error": found.value}, 400)
    return JSONResponse(
        {"access_token": found, "token_type": "bearer"}, headers={"Cache-Control": "no-store"}
    )


@router.get("/oauth/activate")
def page(user_code: str = "") -> HTMLResponse:
    """Where somebody types the code."""
    return _page(
        "A device asks for a token of this hub. Allow it only if you began that login yourself.", user_code
    )


@router.post("/oauth/activate")
async def activate(request: Request, serving: TheServing) -> HTMLResponse:
    """Allow a login, or deny it."""
    form = await _form(request)
    code = form.get("user_code", "")
    try:
        _count(request, serving)
        await run_in_threadpool(_answer, serving, code, form.get("token", ""), form.get("answer") == "allow")
    except AdaptHubError as error:
        return _page(str(error), code, status_of(error))
    done = "allowed: go back to the device" if form.get("answer") == "allow" else "denied"
    return _page(f"The login is {done}.", "")


def _count(request: Request, serving: Serving) -> None:
    """Raises RateLimited where the client's address asks too often: for anything, or for logins."""
    for counted in (serving.rates, serving.login_rates):
        rates.enforce(counted, request.scope, address_of(request))


@retried
def _answer(serving: Serving, code: str, text: str, allowed: bool) -> None:
    with serving.store.database.writing() as session:
        held = find_token(session, text.strip())
        actor = Actor(held.account, held.prefix)
        if allowed:
            logins.allow(session, code, held.account, held.scope, actor=actor)
        else:
            logins.deny(session, code, actor=actor)


async def _form(request: Request) -> dict[str, str]:
    body = (await read_body(request, _FORM_BYTES)).decode(errors="replace")
    return {name: values[0] for name, values in parse_qs(body).items()}


def _page(message: str, code: str, status: int = 200) -> HTMLResponse:
    shown = escape(code[:20]) or "CODE"
    return HTMLResponse(
        _PAGE.format(message=escape(message), code=escape(code[:20]), shown=shown), status, _HEADERS
    )
