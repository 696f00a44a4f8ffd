"""The files of a commit: listed, one by one, and the history that they come from."""

from __future__ import annotations

from bisect import bisect_right
from typing import Annotated, Any
from urllib.parse import parse_qs, quote, urlencode

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from adapthub.adapters.errors import EntryNotFound, InvalidSettings
from adapthub.adapters.suggest import did_you_mean
from adapthub.hub.access import readable_repo
from adapthub.hub.history import history, last_changes
from adapthub.hub.revisions import require_commit
from adapthub.hub.server.answers import Listing, commit_item, last_commit
from adapthub.hub.server.dependencies import FilePath, Revision, Target, TheCaller, TheServing, origin
from adapthub.hub.trees import read_tree
from adapthub.web.bodies import read_body

router = APIRouter(tags=["files"])

_COMMITS_A_PAGE = 50
_MOST_PATHS = 1000
_CLEAN = {
    "status": "safe",
    "jFrogScan": None,
    "protectAiScan": None,
    "avScan": None,
    "pickleImportScan": None,
}


@router.get("/api/models/{namespace}/{name}/tree/{revision}")
def tree(
    target: Target,
    revision: Revision,
    request: Request,
    response: Response,
    serving: TheServing,
    caller: TheCaller,
    recursive: bool = False,
    expand: bool = False,
    cursor: str | None = None,
    limit: Annotated[int | None, Query(ge=1)] = None,
) -> list[dict[str, Any]]:
    """Files and folders at the root of a commit; the header Link has the next page."""
    return subtree(target, revision, "", request, response, serving, caller, recursive, expand, cursor, limit)


@router.get("/api/models/{namespace}/{name}/tree/{revision}/{path:path}")
def subtree(
    target: Target,
    revision: Revision,
    path: FilePath,
    request: Request,
    response: Response,
    serving: TheServing,
    caller: TheCaller,
    recursive: bool = False,
    expand: bool = False,
    cursor: str | None = None,
    limit: Annotated[int | None, Query(ge=1)] = None,
) -> list[dict[str, Any]]:
    """Files and folders in a folder of a commit."""
    folder = path.strip("/")
    size = min(limit or serving.limits.page, serving.limits.page)
    with serving.store.database.reading() as session:
        repo = readable_repo(session, caller, target)
        commit = require_commit(session, repo, revision)
        files = read_tree(session, commit.id)
        listing = Listing(files)
        paths = listing.below(folder, recursive=recursive)
        if folder and not paths:
            raise missing(
                f"{repo.full_name} has no folder {folder[:200]} at {revision}", commit.oid, folder, files
            )
        paths = paths[0 if cursor is None else bisect_right(paths, cursor) :]
        page = listing.items(paths[:size])
        if expand:
            _expand(page, last_changes(session, commit, paths[:size]))
    if len(paths) > size:
        query = {"cursor": paths[size - 1], "recursive": recursive, "expand": expand, "limit": size}
        where = f"{origin(request)}{quote(request.url.path, safe='/%')}"
        response.headers["Link"] = f'<{where}?{urlencode(query)}>; rel="next"'
    return page


@router.post("/api/models/{namespace}/{name}/paths-info/{revision}")
async def paths_info(
    target: Target, revision: Revision, request: Request, serving: TheServing, caller: TheCaller
) -> list[dict[str, Any]]:
    """What is at each of some paths; what is not there is left out."""
    form = parse_qs((await read_body(request, serving.limits.json_bytes)).decode(errors="replace"))
    paths = form.get("paths", [])
    if len(paths) > _MOST_PATHS:
        raise InvalidSettings(f"{len(paths)} paths at once are too many", hint=f"Ask for {_MOST_PATHS}.")
    expand = form.get("expand", ["false"])[0].lower() in ("true", "1")

    def look() -> list[dict[str, Any]]:
        with serving.store.database.reading() as session:
            repo = readable_repo(session, caller, target)
            commit = require_commit(session, repo, revision)
            listing = Listing(read_tree(session, commit.id))
            items = listing.items(dict.fromkeys(path.strip("/") for path in paths))
            if expand:
                _expand(items, last_changes(session, commit, [item["path"] for item in items]))
            return items

    return await run_in_threadpool(look)


@router.get("/api/models/{namespace}/{name}/commits/{revision}")
def commits(
    target: Target,
    revision: Revision,
    request: Request,
    response: Response,
    serving: TheServing,
    caller: TheCaller,
    p: Annotated[int, Query(ge=0, le=100_000)] = 0,
) -> list[dict[str, Any]]:
    """The history of a revision, newest first; the header Link has the next page."""
    with serving.store.database.reading() as session:
        repo = readable_repo(session, caller, target)
        end = require_commit(session, repo, revision)
        found = history(session, end, limit=_COMMITS_A_PAGE + 1, skip=p * _COMMITS_A_PAGE)
        items = [commit_item(commit) for commit in found]
    if len(items) > _COMMITS_A_PAGE:
        where = f"{origin(request)}{quote(request.url.path, safe='/%')}"
        response.headers["Link"] = f'<{where}?{urlencode({"p": p + 1})}>; rel="next"'
    return items[:_COMMITS_A_PAGE]


def missing(message: str, commit: str, path: str, known: Any) -> EntryNotFound:
    """The error for a path that is not there, with the commit that it was looked for in."""
    return EntryNotFound(message, commit=commit, hint=did_you_mean(path, list(known)))


def _expand(items: list[dict[str, Any]], changes: Any) -> None:
    for item in items:
        if item["path"] in changes:
            item["lastCommit"] = last_commit(changes[item["path"]])
            item["securityFileStatus"] = _CLEAN
