"""History made shorter, and large files taken out of it. What is a version stays, and its signature: it was promised not to
change.

Every function runs inside a transaction of the database's, and locks the repository.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, delete, func, or_, select
from sqlalchemy.orm import Session, aliased

from adapthub.adapters.errors import Conflict, RevisionNotFound
from adapthub.hub import commits, repos, uploads
from adapthub.hub.audit import Actor
from adapthub.hub.events import happened
from adapthub.hub.storage.governance_tables import SignatureRow
from adapthub.hub.storage.tables import BlobRow, CommitRow, FileRow, RefRow, RepoRow, VersionRow
from adapthub.hub.trees import read_tree


@dataclass(frozen=True)
class LargeFile:
    """A large file of a repository's history: one of its paths, when it first came, and a branch or tag that has it now."""

    sha256: str
    size: int
    path: str
    pushed: datetime
    ref: str | None


def squash(session: Session, repo: RepoRow, branch: str, *, message: str, actor: Actor) -> CommitRow:
    """Let the end of a branch be its only commit. Commits that nothing leads to any more go, unless they are versions or
    have a version's signature.

    Raises RevisionNotFound where there is no such branch.
    """
    repos.lock(session, repo)
    ref = session.get(RefRow, (repo.id, branch))
    if ref is None or ref.is_tag:
        raise RevisionNotFound(f"{repo.full_name} has no branch {branch[:120]}")
    row = commits.begin_anew(
        session, repo, branch, read_tree(session, ref.commit_id), message=message, author=actor.account
    )
    session.flush()
    _drop_unreachable(session, repo)
    happened(session, actor, "history.rewritten", repo=repo.full_name, branch=branch, commit=row.oid)
    return row


def large_files(session: Session, repo: RepoRow, *, after: str = "", limit: int) -> list[LargeFile]:
    """The large files that any commit of `repo` names, by sha256: the first so many of those after `after`."""
    mine = (
        select(
            FileRow.blob_id, func.min(FileRow.path).label("path"), func.min(CommitRow.created).label("pushed")
        )
        .join(CommitRow, CommitRow.id == FileRow.commit_id)
        .where(CommitRow.repo_id == repo.id, FileRow.sha1.is_(None))
        .group_by(FileRow.blob_id)
        .subquery()
    )
    here = aliased(FileRow)
    ref = (
        select(func.min(RefRow.name))
        .join(here, here.commit_id == RefRow.commit_id)
        .where(RefRow.repo_id == repo.id, here.blob_id == BlobRow.id)
        .scalar_subquery()
    )
    rows = session.execute(
        select(BlobRow.sha256, BlobRow.size, mine.c.path, mine.c.pushed, ref)
        .join(mine, mine.c.blob_id == BlobRow.id)
        .where(*([BlobRow.sha256 > after] if after else []))
        .order_by(BlobRow.sha256)
        .limit(limit)
    )
    return [LargeFile(*row) for row in rows]


def delete_files(session: Session, repo: RepoRow, sha256s: Iterable[str], *, actor: Actor) -> None:
    """Take files out of every commit of `repo`. Raises Conflict where a version has one of them, or as its signature."""
    repos.lock(session, repo)
    wanted = list(sha256s)
    blobs = select(BlobRow.id).where(BlobRow.sha256.in_(wanted))
    number = session.scalar(
        select(VersionRow.number)
        .join(FileRow, FileRow.commit_id == VersionRow.id)
        .outerjoin(SignatureRow, SignatureRow.version_id == VersionRow.id)
        .where(
            VersionRow.repo_id == repo.id,
            or_(FileRow.blob_id.in_(blobs), SignatureRow.blob_id.in_(blobs)),
        )
        .order_by(VersionRow.number)
        .limit(1)
    )
    if number is not None:
        raise Conflict(
            f"v{number} of {repo.full_name} has one of these files, and versions do not change",
            hint="Delete the repository to delete its versions.",
        )
    gone = sorted(uploads.in_history(session, repo, wanted))
    mine = select(CommitRow.id).where(CommitRow.repo_id == repo.id)
    session.execute(delete(FileRow).where(FileRow.commit_id.in_(mine), FileRow.blob_id.in_(blobs)))
    uploads.forget(session, repo, wanted)
    if gone:
        happened(session, actor, "history.rewritten", repo=repo.full_name, files=gone)


def _drop_unreachable(session: Session, repo: RepoRow) -> None:
    reached = (
        select(CommitRow.id, CommitRow.parent_id)
        .join(RefRow, RefRow.commit_id == CommitRow.id)
        .where(RefRow.repo_id == repo.id)
        .cte("reached", recursive=True)
    )
    parent = aliased(CommitRow)
    reached = reached.union(
        select(parent.id, parent.parent_id).join(reached, parent.id == reached.c.parent_id)
    )
    versions = select(VersionRow.id).where(VersionRow.repo_id == repo.id)
    signed = select(SignatureRow.commit_id).where(SignatureRow.version_id.in_(versions))
    gone: Select[int] = select(CommitRow.id).where(
        CommitRow.repo_id == repo.id,
        CommitRow.id.not_in(select(reached.c.id)),
        CommitRow.id.not_in(versions),
        CommitRow.id.not_in(signed),
    )
    here = {"synchronize_session": False}  # whoever squashes holds none of what goes
    session.execute(delete(FileRow).where(FileRow.commit_id.in_(gone)), execution_options=here)
    session.execute(delete(CommitRow).where(CommitRow.id.in_(gone)), execution_options=here)
