"""What changed between two revisions of an adapter: modules, configuration, metrics, files. `hub/differ` compares, aside."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import APIRouter, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from adapthub.adapters.admission import IGNORED
from adapthub.adapters.errors import InvalidReference, RevisionNotFound
from adapthub.hub.access import Caller, Gated
from adapthub.hub.differ import Side
from adapthub.hub.reference import Reference
from adapthub.hub.registry import StoredFile
from adapthub.hub.server.dependencies import Target, TheServing
from adapthub.hub.server.pages.reading import Repository, read_repository
from adapthub.hub.server.pages.rendering import page
from adapthub.hub.server.pages.visitors import TheVisitor
from adapthub.hub.server.serving import Serving

router = APIRouter(include_in_schema=False)

MOST_MODULES = 200
PATIENCE = 5.0
"""Seconds that one request waits."""

_AGAIN_SECONDS = 3


@router.api_route("/{namespace}/{name}/diff/{range}", methods=["GET", "HEAD"])
async def diff(
    request: Request,
    target: Target,
    range: Annotated[str, Path()],
    serving: TheServing,
    visitor: TheVisitor,
) -> Response:
    """From one version to another, `v1..v3`; while it is being computed, a page that asks again."""
    before, after = await run_in_threadpool(_both, serving, visitor, target, range)
    found = await _difference(serving, before, after)
    modules = [] if found is None else [one for one in found["modules"] if one["changed"]]
    greatest = max((one["difference"] or 0.0 for one in modules), default=0.0)
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


async def _difference(serving: Serving, before: Repository, after: Repository) -> Mapping[str, Any] | None:
    """The JSON of `adapters.diff.difference_record`; None while it is being computed."""
    first, second = _side(before), _side(after)
    if first.digest == second.digest:
        return {"before": first.digest, "after": second.digest, "modules": []}
    asked = serving.differ.difference(first, second)
    with suppress(TimeoutError):
        document = await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(asked)), PATIENCE)
        found: dict[str, Any] = json.loads(document)
        return found
    return None


def _side(repository: Repository) -> Side:
    assert repository.shown is not None
    own = [
        StoredFile(path, blob.sha256, blob.size)
        for path, blob in repository.files.items()
        if path.partition("/")[0] not in IGNORED
    ]
    return Side(repository.shown.version.digest, own)
