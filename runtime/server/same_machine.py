"""Requests to a server without keys: only from programs of this machine and from the server's own page.

Whoever reaches such a server is an administrator, and any website can let a browser on this machine send it requests. What
gives these away is in headers that a website cannot choose. Does not answer anybody.
"""

from __future__ import annotations

from starlette.datastructures import Headers

from adapthub.adapters.errors import Forbidden
from adapthub.web import this_machine

_READS = ("GET", "HEAD")  # what they answer no other website's scripts may see
_ELSEWHERE = ("cross-site", "same-site")  # one port of localhost and another are the same site
_HINT = "Add a tenant with adapt tenant add, so that requests need a key."


def check(method: str, headers: Headers) -> None:
    """Raises Forbidden for a host that is not this machine (a foreign name that was made to mean it, too), and for what a
    browser sends for another website."""
    host = headers.get("host", "")
    if not this_machine.is_called(host):
        raise Forbidden(
            f"a server without tenants answers as localhost, not as {host!r:.120}",
            hint=f"Ask http://127.0.0.1. {_HINT}",
        )
    if method in _READS:
        return
    origin = headers.get("origin")
    foreign = origin is not None and origin.partition("://")[2].lower() != host.lower()
    if foreign or headers.get("sec-fetch-site") in _ELSEWHERE:
        raise Forbidden("a server without tenants does nothing that another website asks for", hint=_HINT)
