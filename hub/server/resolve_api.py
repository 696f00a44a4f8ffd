"""Files by revision and path: whole or a range of them, with the commit that the revision means.

Xet is never advertised: what was uploaded by it is read like everything else.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from adapthub.hub.access import Caller, check_gate, readable_repo
from adapthub.hub.reference import Reference
from adapthub.hub.revisions import require_commit
from adapthub.hub.server.dependencies import FilePath, Revision, Target, TheCaller, TheServing
from adapthub.hub.server.entity_tags import held
from adapthub.hub.server.serving import Serving
from adapthub.hub.server.tree_api import missing
from adapthub.hub.trees import Blob, find_file, read_tree

router = APIRouter(tags=["files"])

_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)
_LONGEST_NUMBER = 18  # digits


@router.head("/{namespace}/{name}/resolve/{revision}/{path:path}")
@router.get("/{namespace}/{name}/resolve/{revision}/{path:path}")
async def resolve(
    target: Target,
    revision: Revision,
    path: FilePath,
    request: Request,
    serving: TheServing,
    caller: TheCaller,
) -> Response:
    """A file, or with a Range header a part of it."""
    blob, commit = await run_in_threadpool(find, serving, caller, target, revision, path)
    headers = _headers(blob, path, commit)
    if held(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    wanted = request.headers.get("range")
    if request.headers.get("if-range", headers["ETag"]) != headers["ETag"]:
        wanted = None
    part = None if wanted is None else _part(wanted, blob.size)
    if part is not None and part[0] >= part[1]:
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{blob.size}"})
    return await _answer(serving, request.method, blob, part, headers)


def find(serving: Serving, caller: Caller, target: Reference, revision: str, path: str) -> tuple[Blob, str]:
    """The file, and the commit that the revision means. Raises AdapterNotFound, RevisionNotFound, EntryNotFound, Gated."""
    with serving.store.database.reading() as session:
        repo = readable_repo(session, caller, target)
        commit = require_commit(session, repo, revision)
        check_gate(session, caller, repo)
        blob = find_file(session, commit.id, path)
        if blob is None:
            where = f"{repo.full_name} has no file {path[:200]} at {revision}"
            raise missing(where, commit.oid, path, read_tree(session, commit.id))
        return blob, commit.oid


async def _answer(
    serving: Serving, method: str, blob: Blob, part: tuple[int, int] | None, headers: dict[str, str]
) -> Response:
    start, end = part or (0, blob.size)
    headers = {**headers, "Content-Length": str(end - start)}
    if part is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{blob.size}"
    status = 200 if part is None else 206
    if method == "HEAD":
        return Response(status_code=status, headers=headers)
    pieces = await serving.store.blobs.stream(blob.sha256, start, end)
    return StreamingResponse(pieces, status, headers)


def _headers(blob: Blob, path: str, commit: str) -> dict[str, str]:
    name = path.rpartition("/")[2]
    return {
        "ETag": f'"{blob.etag}"',
        "X-Repo-Commit": commit,
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",  # whatever strangers uploaded, no browser runs it
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }


def _part(header: str, size: int) -> tuple[int, int] | None:
    """The bytes [start, end) that a Range header asks for; None for one that is not understood, which is then ignored; an
    empty one for what the file has not got."""
    match = _RANGE.fullmatch(header.replace(" ", ""))
    if match is None or match[0] == "bytes=-" or max(map(len, match.groups())) > _LONGEST_NUMBER:
        return None
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size
    start, end = int(first), min(int(last) + 1, size) if last else size
    if last and int(last) < start:
        return None
    return (start, end) if start < size else (0, 0)
