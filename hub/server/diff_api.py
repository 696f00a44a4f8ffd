"""What changed between two versions, as `adapt diff --json` says it.

    GET /api/models/{id}/diff/{a}..{b}

{a} and {b} are revisions of the repository; {b} may be one of another, `namespace%2Fname@revision`. The answer is
`adapters.diff.difference_record`: {"before": "sha256:<hex>", "after": ..., "modules": [{"module", "before", "after",
"difference", "cosine", "before_rank", "after_rank", "changed"}], "configuration": [{"name", "before", "after"}], "manifest":
[...] or null, "metrics": [{"split", "name", "before", "after", "apart"}], "files": [{"name", "before", "after"}]}.
"""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from adapthub.adapters.errors import InvalidReference
from adapthub.hub.access import Caller, check_gate, readable_repo
from adapthub.hub.differ import Side
from adapthub.hub.records import files_of
from adapthub.hub.reference import Reference, parse_own
from adapthub.hub.revisions import require_version_at
from adapthub.hub.server.dependencies import Revision, Target, TheCaller, TheServing, address_of

router = APIRouter(tags=["adapters"])


@router.get("/api/models/{namespace}/{name}/diff/{revision}")
async def diff(
    request: Request, target: Target, revision: Revision, serving: TheServing, caller: TheCaller
) -> Response:
    """Compare two versions, module by module."""
    first, dots, second = revision.partition("..")
    if not (first and dots and second):
        raise InvalidReference(
            f"{revision[:120]!r} does not name two versions", hint="Write them as in v1..v2."
        )
    other = parse_own(second) if "/" in second else target
    after = (other.revision or "main") if other is not target else second

    def sides() -> tuple[Side, Side]:
        with serving.store.database.reading() as session:
            return _side(session, caller, target, first), _side(session, caller, other, after)

    asker = caller.token or address_of(request)
    asked = serving.differ.difference(*await run_in_threadpool(sides), asker=asker)
    document = await asyncio.shield(asyncio.wrap_future(asked))  # others may wait for the same
    return Response(document, media_type="application/json")


def _side(session: Session, caller: Caller, target: Reference, revision: str) -> Side:
    repo = readable_repo(session, caller, target)
    check_gate(session, caller, repo)
    version = require_version_at(session, repo, revision)
    return Side(f"sha256:{version.digest}", files_of(version))
