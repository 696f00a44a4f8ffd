"""What endpoints take: the server's state, who asks, and the parts of a path, unquoted and checked.

@router.get("/api/models/{namespace}/{name}/things")
def things(serving: TheServing, caller: TheCaller, target: Target) -> ...:
    with serving.store.database.reading() as session:
        repo = readable_repo(session, caller, target)
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated
from urllib.parse import unquote, urlsplit

from fastapi import Depends, Path, Query, Request
from fastapi.security.utils import get_authorization_scheme_param
from pydantic import AfterValidator

from adapthub.adapters.errors import Forbidden, InvalidReference, InvalidSettings, Unauthorized
from adapthub.hub.access import Caller
from adapthub.hub.accounts import any_token, find_token
from adapthub.hub.reference import Reference
from adapthub.hub.server.rates import enforce
from adapthub.hub.server.serving import Serving

_MOST_WORDS = 64


def _serving(request: Request) -> Serving:
    serving: Serving = request.app.state.serving
    return serving


TheServing = Annotated[Serving, Depends(_serving)]


def _caller(request: Request, serving: TheServing) -> Caller:
    """Raises Unauthorized for a token that does not work, Forbidden for another machine's name while there are no tokens,
    RateLimited for one request too many."""
    scheme, text = get_authorization_scheme_param(request.headers.get("authorization"))
    return caller_with(request, serving, text if scheme.lower() == "bearer" else "")


def caller_with(request: Request, serving: Serving, text: str) -> Caller:
    """Who asks with the token `text`, "" for none. Raises as `TheCaller` does."""
    with serving.store.database.reading() as session:
        if text:
            try:
                token = find_token(session, text)
            except Unauthorized:
                enforce(serving.rates, request.scope, address_of(request))  # nobody guesses on
                raise
            enforce(serving.rates, request.scope, token.prefix)
            return Caller(token.account, token.scope, token.prefix)
        enforce(serving.rates, request.scope, address_of(request))
        alone = not any_token(session)
    if alone and not _is_loopback(request.headers.get("host", "")):
        # A name that was made to mean this machine, by a website that reads what it holds.
        raise Forbidden(
            "a hub without tokens answers as localhost only",
            hint="Make a token with adapt hub token create.",
        )
    return Caller(alone=alone)


def address_of(request: Request) -> str:
    """Where a request comes from, as far as is known."""
    return request.client.host if request.client is not None else ""


TheCaller = Annotated[Caller, Depends(_caller)]


def _target(namespace: Annotated[str, Path()], name: Annotated[str, Path()]) -> Reference:
    return Reference(None, unquote(namespace), unquote(name))


Target = Annotated[Reference, Depends(_target)]
"""The repository that `{namespace}/{name}` of the path names. InvalidReference where no repository may be called so."""


def _unquoted(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError as error:
        raise InvalidReference(f"{text[:120]!r} in the address is not UTF-8") from error


Revision = Annotated[str, Path(), AfterValidator(_unquoted)]
"""`{revision}` of the path."""

FilePath = Annotated[str, Path(), AfterValidator(_unquoted)]
"""`{path:path}` of the path."""


def _words(text: str) -> str:
    if len(text.split()) > _MOST_WORDS:
        raise InvalidSettings(f"a search for more than {_MOST_WORDS} words", hint="Search for fewer.")
    return text


Words = Annotated[str, Query(), AfterValidator(_words)]
"""What a list is searched for, in the query."""


def origin(request: Request) -> str:
    """This server as the client called it: clients refuse links to any other host."""
    return str(request.base_url).rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False
