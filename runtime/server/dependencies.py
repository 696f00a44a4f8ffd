"""What endpoints depend on: the server's state, and who asks.

Does not define any endpoint.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from adapthub.adapters.errors import AdaptHubError, Forbidden
from adapthub.runtime.server.serving import Serving
from adapthub.runtime.tenants.caller import Caller

_BEARER = HTTPBearer(auto_error=False, description="A tenant's key, or none where no tenant is configured.")


async def serving_of(request: Request) -> Serving:
    """The server's state, for endpoints."""
    serving: Serving = request.app.state.serving
    return serving


async def caller_of(
    request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)] = None
) -> Caller:
    """Who asks, as the door found out. Raises what it refuses the request with: Unauthorized, Forbidden, RateLimited."""
    caller: Caller | AdaptHubError = request.scope["state"]["caller"]
    if isinstance(caller, AdaptHubError):
        raise caller
    return caller


async def request_id_of(request: Request) -> str:
    """What names the request in its answer's header X-Request-Id."""
    id: str = request.scope["state"]["request_id"]
    return id


def admin_of(caller: Annotated[Caller, Depends(caller_of)]) -> Caller:
    """The same for administrators. Raises Unauthorized, Forbidden."""
    if not caller.admin:
        raise Forbidden("this needs an administrator's key")
    return caller


TheServing = Annotated[Serving, Depends(serving_of)]
TheRequestId = Annotated[str, Depends(request_id_of)]
TheCaller = Annotated[Caller, Depends(caller_of)]
TheAdmin = Annotated[Caller, Depends(admin_of)]
