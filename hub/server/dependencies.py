"""What endpoints take: the server's state, who asks, and the parts of a path, unquoted and checked.

@router.get("/api/models/{namespace}/{name}/things")
def things(serving: TheServing, caller: TheCaller, target: Target) -> ...:
    with serving.store.database.reading() as session:
        repo = readable_repo(session, caller, target)
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Network, ip_address
from typing import Annotated
from urllib.parse import unquote

from fastapi import Depends, Path, Query, Request
from pydantic import AfterValidator

from adapthub.adapters.errors import Forbidden, InvalidReference, InvalidSettings, Unauthorized
from adapthub.hub.access import Caller
from adapthub.hub.accounts import any_token, find_token
from adapthub.hub.reference import Reference
from adapthub.hub.server.rates import enforce
from adapthub.hub.server.serving import Serving
from adapthub.web import logs, this_machine
from adapthub.web.authorization import bearer

_MOST_WORDS = 64


async def _serving(request: Request) -> Serving:  # which needs no thread
    serving: Serving = request.app.state.serving
    return serving


TheServing = Annotated[Serving, Depends(_serving)]


def _caller(request: Request, serving: TheServing) -> Caller:
    """Raises Unauthorized for a token that does not work, Forbidden for another machine's name while there are no tokens,
    RateLimited for one request too many."""
    return caller_with(request, serving, bearer(request.headers) or "")


def caller_with(request: Request, serving: Serving, text: str) -> Caller:
    """Who asks with the token `text`, "" for none. Raises as `TheCaller` does."""
    with serving.store.database.reading() as session:
        if text:
            try:
                token = find_token(session, text)
            except Unauthorized:
                enforce(serving.rates, request.scope, address_of(request))  # nobody guesses on
                raise
            logs.note(account=token.account)
            enforce(serving.rates, request.scope, token.prefix)
            return Caller(token.account, token.scope, token.prefix)
        enforce(serving.rates, request.scope, address_of(request))
        alone = not any_token(session)
    if alone and not this_machine.is_called(request.headers.get("host", "")):
        # A name that was made to mean this machine, by a website that reads what it holds.
        raise Forbidden(
            "a hub without tokens answers as localhost only",
            hint="Make a token with adapt hub token create.",
        )
    return Caller(alone=alone)


def address_of(request: Request) -> str:
    """Where a request comes from, as far as is known. Of IPv6 the network of 64 bits: who has one of them has all."""
    host = request.client.host if request.client is not None else ""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv4Address):
        return host
    return str(address.ipv4_mapped or IPv6Network((int(address) >> 64 << 64, 64)))


TheCaller = Annotated[Caller, Depends(_caller)]


async def _target(namespace: Annotated[str, Path()], name: Annotated[str, Path()]) -> Reference:
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

Text = Annotated[str, Query(max_length=500, pattern=r"^[^\x00]*$")]
"""A filter in the query of a page: no longer than what lists are filtered by, and nothing that a database refuses."""


def _words(text: str) -> str:
    if len(text.split()) > _MOST_WORDS:
        raise InvalidSettings(f"a search for more than {_MOST_WORDS} words", hint="Search for fewer.")
    return text


Words = Annotated[str, Query(), AfterValidator(_words)]
"""What a list is searched for, in the query."""


def origin(request: Request) -> str:
    """This server as the client called it: clients refuse links to any other host."""
    return str(request.base_url).rstrip("/")
