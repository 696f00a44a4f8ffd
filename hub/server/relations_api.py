"""What an adapter has to do with others: where it comes from, what came of it, and what it works together with.

GET /api/models/{id}/lineage?revision=   `documents.lineage_record`
GET /api/models/{id}/composes?revision=&with=namespace/name[@revision]   {"with": "...", ...documents.composition_record}
GET /api/models/{id}/composes?revision=&limit=&cursor=   a page of these: the adapters of the same base, newest first
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from adapthub.hub import family
from adapthub.hub.access import readable_repo
from adapthub.hub.composing import Companion, companion, companions
from adapthub.hub.documents import composition_record, lineage_record
from adapthub.hub.reference import parse_own
from adapthub.hub.revisions import require_version_at
from adapthub.hub.server.adapters_api import next_link
from adapthub.hub.server.dependencies import Target, TheCaller, TheServing

router = APIRouter(prefix="/api/models/{namespace}/{name}", tags=["adapters"])

_DEFAULT_PAGE = 20


@router.get("/lineage")
def lineage(target: Target, serving: TheServing, caller: TheCaller, revision: str = "main") -> dict[str, Any]:
    """What a version comes from, and what came of it."""
    with serving.store.database.reading() as session:
        version = require_version_at(session, readable_repo(session, caller, target), revision)
        return lineage_record(family.lineage_of(session, caller, version))


@router.get("/composes")
def composes(
    target: Target,
    request: Request,
    response: Response,
    serving: TheServing,
    caller: TheCaller,
    revision: str = "main",
    other: Annotated[str | None, Query(alias="with")] = None,
    limit: Annotated[int, Query(ge=1)] = _DEFAULT_PAGE,
    cursor: str | None = None,
) -> Any:
    """What a version does together with another, or with each adapter of its base."""
    with serving.store.database.reading() as session:
        version = require_version_at(session, readable_repo(session, caller, target), revision)
        if other is not None:
            reference = parse_own(other)
            repo = readable_repo(session, caller, reference)
            second = require_version_at(session, repo, reference.revision or "main")
            return _record(companion(session, version, second))
        page = companions(session, caller, version, limit=min(limit, serving.limits.page), after=cursor)
        records = [_record(one) for one in page.companions]
    if page.next is not None:
        response.headers["Link"] = next_link(request, page.next)
    return records


def _record(one: Companion) -> dict[str, Any]:
    return {"with": one.name, "version": f"v{one.number}", **composition_record(one.composition)}
