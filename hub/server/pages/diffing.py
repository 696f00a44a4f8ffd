"""What changed between two revisions of an adapter: modules, configuration, metrics, files."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import unquote

from fastapi import APIRouter, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from adapthub.adapters.admission import IGNORED
from adapthub.adapters.errors import InvalidReference, RevisionNotFound
from adapthub.hub.access import Caller, Gated
from adapthub.hub.reference import Reference
from adapthub.hub.server.dependencies import Target, TheServing
from adapthub.hub.server.pages.reading import Repository, read_repository
from adapthub.hub.server.pages.rendering import page
from adapthub.hub.server.pages.state import TheState
from adapthub.hub.server.pages.visitors import TheVisitor
from adapthub.hub.server.serving import Serving
from adapthub.hub.trees import Tree

router = APIRouter(include_in_schema=False)

MOST_MODULES = 200
_AGAIN_SECONDS = 3


@router.api_route("/{namespace}/{name}/diff/{range}", methods=["GET", "HEAD"])
async def diff(
    request: Request,
    target: Target,
    range: Annotated[str, Path()],
    serving: TheServing,
    visitor: TheVisitor,
    state: TheState,
) -> Response:
    """From one version to another, `v1..v3`; while it is being computed, a page that asks again."""
    before, after = await run_in_threadpool(_both, serving, visitor, target, range)
    found = await state.differences.between(_adapter(before), _adapter(after))
    modules = [] if found is None else [(name, one) for name, one in found.modules.items() if one.changed]
    greatest = max((one.difference or 0.0 for _, one in modules), default=0.0)
    return page(
        request,
        "diff.html",
        visitor,
        headers={"Refresh": str(_AGAIN_SECONDS)} if found is None else None,
        before=before,
        after=after,
        found=found,
        modules=modules[:MOST_MODULES],
        left_out=max(0, len(modules) - MOST_MODULES),
        greatest=greatest,
    )


def _both(serving: Serving, visitor: Caller, target: Reference, range: str) -> tuple[Repository, Repository]:
    first, dots, second = range.partition("..")
    if not (first and dots and second):
        raise InvalidReference(f"{range[:120]!r} does not name two revisions", hint="Write v1..v2.")
    before, after = (_version(serving, visitor, target, unquote(revision)) for revision in (first, second))
    return before, after


def _version(serving: Serving, visitor: Caller, target: Reference, revision: str) -> Repository:
    found = read_repository(serving.store, visitor, target, revision)
    if found.refused is not None:
        raise Gated(found.refused)
    if not found.is_version:
        raise RevisionNotFound(
            f"{revision[:120]} of {found.name} is not a version", hint="Only whole adapters are compared."
        )
    return found


def _adapter(repository: Repository) -> tuple[str, Tree]:
    assert repository.shown is not None
    own = {path: blob for path, blob in repository.files.items() if path not in IGNORED}
    return repository.shown.version.digest, own
