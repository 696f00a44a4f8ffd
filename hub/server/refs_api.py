"""Branches and tags. Aliases are shown beside tags; they move by promotion, not here."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from adapthub.hub import refs
from adapthub.hub.access import Caller, readable_repo, writable_repo
from adapthub.hub.events import happened
from adapthub.hub.gates import check_not_guarded
from adapthub.hub.repos import lock
from adapthub.hub.revisions import require_commit, standing_commit
from adapthub.hub.server.dependencies import Revision, Target, TheCaller, TheServing
from adapthub.hub.server.said import Said
from adapthub.hub.storage.retrying import retried
from adapthub.hub.storage.tables import AliasRow, CommitRow, RefRow, RepoRow

router = APIRouter(prefix="/api/models/{namespace}/{name}", tags=["revisions"])


class NewBranch(Said):
    """Where a branch begins: at `startingPoint`, or where main is."""

    startingPoint: str | None = None


class NewTag(Said):
    """A name for a commit."""

    tag: str
    message: str | None = None


@router.get("/refs")
def references(
    target: Target, serving: TheServing, caller: TheCaller, include_prs: bool = False
) -> dict[str, Any]:
    """Every name that a commit has."""
    with serving.store.database.reading() as session:
        repo = readable_repo(session, caller, target)
        rows = session.execute(
            select(RefRow.name, RefRow.is_tag, CommitRow.oid)
            .join(CommitRow, CommitRow.id == RefRow.commit_id)
            .where(RefRow.repo_id == repo.id)
            .order_by(RefRow.name)
        ).all()
        branches = [_ref(name, "heads", oid) for name, is_tag, oid in rows if not is_tag]
        tags = [_ref(name, "tags", oid) for name, is_tag, oid in rows if is_tag]
        found = {"branches": branches, "tags": [*tags, *_aliases(session, repo)], "converts": []}
    return {**found, "pullRequests": []} if include_prs else found


@router.post("/branch/{revision}")
@retried
def make_branch(
    target: Target, revision: Revision, serving: TheServing, caller: TheCaller, body: NewBranch | None = None
) -> Response:
    """Make a branch."""
    start = None if body is None else body.startingPoint
    with serving.store.database.writing() as session:
        repo = lock(session, writable_repo(session, caller, target))
        commit = require_commit(session, repo, start or "main")
        check_not_guarded(session, repo, revision)
        refs.make_branch(session, repo, revision, commit)
        _tell(session, caller, repo, "branch.made", branch=revision, commit=commit.oid)
    return Response()


@router.delete("/branch/{revision}")
@retried
def delete_branch(target: Target, revision: Revision, serving: TheServing, caller: TheCaller) -> Response:
    """Delete a branch; its commits stay for as long as the repository."""
    with serving.store.database.writing() as session:
        repo = lock(session, writable_repo(session, caller, target))
        refs.delete(session, repo, revision, is_tag=False)
        _tell(session, caller, repo, "branch.deleted", branch=revision)
    return Response()


@router.post("/tag/{revision}")
@retried
def make_tag(
    target: Target, revision: Revision, body: NewTag, serving: TheServing, caller: TheCaller
) -> Response:
    """Give a revision a name that stays."""
    with serving.store.database.writing() as session:
        repo = lock(session, writable_repo(session, caller, target))
        commit = require_commit(session, repo, revision)
        check_not_guarded(session, repo, body.tag)
        refs.make_tag(session, repo, body.tag, commit, message=body.message or "")
        _tell(session, caller, repo, "tag.made", tag=body.tag, commit=commit.oid)
    return Response()


@router.delete("/tag/{revision}")
@retried
def delete_tag(target: Target, revision: Revision, serving: TheServing, caller: TheCaller) -> Response:
    """Take a tag away."""
    with serving.store.database.writing() as session:
        repo = lock(session, writable_repo(session, caller, target))
        refs.delete(session, repo, revision, is_tag=True)
        _tell(session, caller, repo, "tag.deleted", tag=revision)
    return Response()


def _tell(session: Session, caller: Caller, repo: RepoRow, action: str, **detail: str) -> None:
    session.flush()
    happened(session, caller.actor, action, repo=repo.full_name, **detail)


def _aliases(session: Session, repo: RepoRow) -> list[dict[str, str]]:
    rows = session.execute(
        select(AliasRow.alias, AliasRow.version_id)
        .where(AliasRow.repo_id == repo.id)
        .order_by(AliasRow.alias)
    )
    return [_ref(alias, "aliases", standing_commit(session, id).oid) for alias, id in rows]


def _ref(name: str, kind: str, oid: str) -> dict[str, str]:
    return {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid}
