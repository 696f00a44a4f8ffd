"""What is known of repositories: one, at any revision, or pages of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from adapthub.adapters.errors import AdmissionError, InvalidSettings
from adapthub.hub import listing
from adapthub.hub.access import readable_repo
from adapthub.hub.cards import card_metadata
from adapthub.hub.documents import facts_record, fit_record, version_record
from adapthub.hub.inspection import card_of
from adapthub.hub.knowledge import known_of
from adapthub.hub.records import facts_of, version_of
from adapthub.hub.revisions import head_of, require_commit
from adapthub.hub.search import entries_of
from adapthub.hub.server.adapters_api import next_link
from adapthub.hub.server.answers import config_of, only, repo_info, siblings
from adapthub.hub.server.dependencies import Revision, Target, TheCaller, TheServing, Words
from adapthub.hub.server.serving import Serving
from adapthub.hub.signatures import version_of_commit
from adapthub.hub.storage.tables import MAIN, CommitRow, RefRow, VersionRow
from adapthub.hub.trees import Tree, read_tree, read_trees

router = APIRouter(tags=["repositories"])

Texts = Annotated[list[str], Query()]
_DEFAULT_PAGE = 100
_MOST_FILTERS = 32
# Nothing is counted yet that these sort by: everything is equal, and newest first among equals.
_SORTS = {
    "lastModified": "modified",
    "last_modified": "modified",
    "createdAt": "created",
    "created_at": "created",
    "downloads": "modified",
    "likes": "modified",
    "trendingScore": "modified",
    "trending_score": "modified",
}


@router.get("/api/models")
def models(
    request: Request,
    response: Response,
    serving: TheServing,
    caller: TheCaller,
    filter: Texts = [],  # noqa: B006
    author: str | None = None,
    search: Words = "",
    pipeline_tag: str | None = None,
    sort: str = "lastModified",
    direction: int = -1,
    limit: Annotated[int | None, Query(ge=1)] = None,
    gated: bool | None = None,
    full: bool = False,
    config: bool = False,
    cardData: bool = False,
    expand: Texts = [],  # noqa: B006
    cursor: str | None = None,
) -> list[dict[str, Any]]:
    """A page of repositories, newest first; the header Link has the next one."""
    if sort not in _SORTS:
        raise InvalidSettings(
            f"repositories are not sorted by {sort!r}", hint="Use lastModified or createdAt."
        )
    tags = [tag for given in filter for tag in given.split(",") if tag]
    if len(tags) > _MOST_FILTERS:
        raise InvalidSettings(
            f"{len(tags)} filters at once are too many", hint=f"Filter by {_MOST_FILTERS} at most."
        )
    size = min(limit or _DEFAULT_PAGE, serving.limits.page)
    query = listing.Query(
        tags=[*tags, *([pipeline_tag] if pipeline_tag else [])],
        text=search,
        namespace=author,
        gated=gated,
        sort="created" if _SORTS[sort] == "created" else "modified",
        ascending=direction == 1,
        limit=size,
        after=cursor,
    )
    with serving.store.database.reading() as session:
        page = listing.list_repos(session, caller, query)
        repos = listing.rows_of(session, page.ids)
        heads = _heads(session, page.ids)
        with_files = full or "siblings" in expand
        trees = read_trees(session, [head.id for head in heads.values()]) if with_files else {}
        with_config = config or "config" in expand
        entries = entries_of(session, page.ids) if with_config else {}
        items = []
        for repo in repos:
            item = repo_info(repo, heads.get(repo.id))
            if full or cardData or "cardData" in expand:
                item["cardData"] = repo.card
            if with_config:
                item["config"] = config_of(entries[repo.id].facts if repo.id in entries else None)
            if with_files:
                head = heads.get(repo.id)
                item["siblings"] = siblings(trees[head.id] if head else {}, blobs=False)
            items.append(only(item, expand) if expand else item)
    if page.next is not None:
        response.headers["Link"] = next_link(request, page.next)
    return items


@router.get("/api/models/{namespace}/{name}")
def info(
    target: Target,
    serving: TheServing,
    caller: TheCaller,
    blobs: bool = False,
    securityStatus: bool = False,
    expand: Texts = [],  # noqa: B006
) -> dict[str, Any]:
    """A repository as its main branch is now."""
    return _info(serving, caller, target, None, blobs, securityStatus, expand)


@router.get("/api/models/{namespace}/{name}/revision/{revision}")
def info_at(
    target: Target,
    revision: Revision,
    serving: TheServing,
    caller: TheCaller,
    blobs: bool = False,
    securityStatus: bool = False,
    expand: Texts = [],  # noqa: B006
) -> dict[str, Any]:
    """A repository at a revision."""
    return _info(serving, caller, target, revision, blobs, securityStatus, expand)


def _info(
    serving: Serving,
    caller: TheCaller,
    target: Target,
    revision: str | None,
    blobs: bool,
    security: bool,
    expand: list[str],
) -> dict[str, Any]:
    with serving.store.database.reading() as session:
        repo = readable_repo(session, caller, target)
        head = head_of(session, repo)
        commit = head if revision is None else require_commit(session, repo, revision)
        tree = {} if commit is None else read_tree(session, commit.id)
        found = repo_info(repo, commit)
        is_head = commit is None or (head is not None and commit.id == head.id)
        found["cardData"] = repo.card if is_head else None
        version = None if commit is None else version_of_commit(session, commit)
        found["config"] = config_of(None if version is None else facts_of(version))
        found["adapthub"] = None if version is None else _known(session, version)
    if found["cardData"] is None:
        found["cardData"] = _metadata(serving, tree)
    found["siblings"] = siblings(tree, blobs=blobs)
    found["usedStorage"] = sum(blob.size for blob in tree.values())
    if security:
        found["securityRepoStatus"] = {"scansDone": True, "filesWithIssues": []}
    return only(found, expand) if expand else found


def _known(session: Session, version: VersionRow) -> dict[str, Any]:
    """What this hub knows of a version."""
    known = known_of(session, [version.id]).get(version.id)
    return {
        **version_record(version_of(version)),
        **facts_record(facts_of(version)),
        "targets": None if known is None else list(known.structure.targets),
        "fit": fit_record(None if known is None else known.fit),
    }


def _heads(session: Session, repo_ids: Sequence[int]) -> dict[int, CommitRow]:
    """The end of each repository's main branch, by the repository's key."""
    query = (
        select(RefRow.repo_id, CommitRow)
        .join(CommitRow, CommitRow.id == RefRow.commit_id)
        .where(RefRow.repo_id.in_(repo_ids), RefRow.name == MAIN)
    )
    return {row.repo_id: row.CommitRow for row in session.execute(query)}


def _metadata(serving: Serving, tree: Tree) -> dict[str, Any]:
    try:
        return card_metadata(card_of(tree, serving.store.read))
    except AdmissionError:
        return {}
