"""A branch squashed to one commit, and the large files of a history: listed, and taken out of it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Request, Response
from pydantic import Field

from adapthub.adapters.errors import InvalidSettings
from adapthub.hub import rewriting
from adapthub.hub.access import check_gate, readable_repo, writable_repo
from adapthub.hub.server.answers import time_of
from adapthub.hub.server.dependencies import Revision, Target, TheCaller, TheServing, origin
from adapthub.hub.server.said import Said
from adapthub.hub.storage.retrying import retried
from adapthub.hub.trees import Blob

router = APIRouter(prefix="/api/models/{namespace}/{name}", tags=["revisions"])

_MOST = 1000


class Squash(Said):
    """What the one commit says."""

    message: str = "Squash"


class Deletions(Said):
    """Files by their sha256 in hex."""

    sha: list[str] = Field(max_length=_MOST)
    rewriteHistory: bool = True


class Deletion(Said):
    """Files to delete."""

    deletions: Deletions


@router.post("/super-squash/{revision}")
@retried
def super_squash(
    target: Target, revision: Revision, body: Squash, serving: TheServing, caller: TheCaller
) -> Response:
    """Let the end of a branch be its only commit; versions stay."""
    with serving.store.database.writing() as session:
        repo = writable_repo(session, caller, target)
        rewriting.squash(session, repo, revision, message=body.message, actor=caller.actor)
    return Response()


@router.get("/lfs-files")
def lfs_files(
    target: Target,
    request: Request,
    response: Response,
    serving: TheServing,
    caller: TheCaller,
    cursor: str = "",
) -> list[dict[str, Any]]:
    """The large files that any commit has; the header Link has the next page."""
    size = serving.limits.page
    with serving.store.database.reading() as session:
        repo = readable_repo(session, caller, target)
        check_gate(session, caller, repo)
        found = rewriting.large_files(session, repo, after=_sha256(cursor), limit=size + 1)
    if len(found) > size:
        where = f"{origin(request)}{quote(request.url.path, safe='/%')}"
        response.headers["Link"] = f'<{where}?{urlencode({"cursor": found[size - 1].sha256})}>; rel="next"'
    return [
        {
            "fileOid": one.sha256,
            "filename": one.path,
            "oid": Blob(one.sha256, one.size).oid,
            "pushedAt": time_of(one.pushed),
            "ref": one.ref,
            "size": one.size,
        }
        for one in found[:size]
    ]


@router.post("/lfs-files/batch")
@retried
def delete_lfs_files(target: Target, body: Deletion, serving: TheServing, caller: TheCaller) -> Response:
    """Take large files out of every commit, but for those of versions."""
    if not body.deletions.rewriteHistory:
        raise InvalidSettings(
            "this hub keeps no commits that name files which are gone", hint="Set rewriteHistory."
        )
    with serving.store.database.writing() as session:
        repo = writable_repo(session, caller, target)
        wanted = [_sha256(sha256) for sha256 in body.deletions.sha]
        rewriting.delete_files(session, repo, wanted, actor=caller.actor)
    return Response()


def _sha256(text: str) -> str:
    if text and (len(text) != 64 or not set(text) <= set("0123456789abcdef")):
        raise InvalidSettings(f"{text[:80]!r} is no sha256 in lower-case hex")
    return text
