"""The audit log, for tokens of the scope admin."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Query, Request, Response

from adapthub.hub import audit
from adapthub.hub.access import require_admin
from adapthub.hub.documents import audit_record
from adapthub.hub.server.dependencies import TheCaller, TheServing, origin

router = APIRouter(prefix="/api", tags=["audit"])


@router.get("/audit")
def entries(
    request: Request,
    response: Response,
    serving: TheServing,
    caller: TheCaller,
    repo: str | None = None,
    namespace: str | None = None,
    actor: str | None = None,
    action: str | None = None,
    before: Annotated[int | None, Query(ge=1, lt=2**62)] = None,
    limit: Annotated[int, Query(ge=1)] = 100,
) -> list[dict[str, Any]]:
    """The newest entries that fit, newest first; the header Link has the next page."""
    require_admin(caller)
    size = min(limit, serving.limits.page)
    wanted = {"repo": repo, "namespace": namespace, "actor": actor, "action": action}
    with serving.store.database.reading() as session:
        found = audit.entries(session, **wanted, before=before, limit=size + 1)
    if len(found) > size:
        query = {key: value for key, value in wanted.items() if value is not None}
        where = f"{origin(request)}{quote(request.url.path)}"
        following = urlencode({**query, "before": found[size - 1].number, "limit": size})
        response.headers["Link"] = f'<{where}?{following}>; rel="next"'
    return [audit_record(entry) for entry in found[:size]]


@router.get("/audit/verify")
def verify(serving: TheServing, caller: TheCaller, expect: str | None = None) -> dict[str, Any]:
    """Whether the whole chain is as it was written; the hash of its head, to be kept elsewhere."""
    require_admin(caller)
    with serving.store.database.reading() as session:
        chain = audit.verify(session, expect=expect)
    return {"entries": chain.entries, "head": chain.head}
