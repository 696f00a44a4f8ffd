"""When a commit on main is a version: its tree is a whole adapter that the repository does not hold yet.

Computes no digests and reads no files (inspection has).
"""

from __future__ import annotations

from dataclasses import astuple

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from adapthub.adapters.description import Description
from adapthub.adapters.errors import Conflict
from adapthub.hub.facts import read_facts
from adapthub.hub.records import bare_digest
from adapthub.hub.registry import Facts
from adapthub.hub.storage.tables import CommitRow, RepoRow, VersionRow


def with_digest(session: Session, repo: RepoRow, digest: str) -> VersionRow | None:
    """The version of `repo` that has the digest "sha256:<hex>", if any."""
    return session.scalar(
        select(VersionRow).where(VersionRow.repo_id == repo.id, VersionRow.digest == bare_digest(digest))
    )


def versions_of(session: Session, repo: RepoRow) -> list[VersionRow]:
    """The versions of `repo`, newest first."""
    query = (
        select(VersionRow)
        .where(VersionRow.repo_id == repo.id)
        .order_by(VersionRow.number.desc())
        .options(joinedload(VersionRow.commit))
    )
    return [*session.scalars(query)]


def add_version(session: Session, repo: RepoRow, commit: CommitRow, adapter: Description) -> VersionRow:
    """Let `commit` be the next version of `repo`, which the transaction has locked. Raises Conflict for an adapter of
    another task than the newest version's."""
    facts = read_facts(adapter)
    _check_task(session, repo, facts)
    repo.newest += 1
    version = VersionRow(
        id=commit.id,
        repo=repo,
        commit=commit,
        number=repo.newest,
        digest=bare_digest(adapter.digest),
        size=adapter.size,
        method=facts.method,
        task=facts.task,
        base=facts.base,
        base_fingerprint=facts.base_fingerprint,
        rank=facts.rank,
        labels=list(facts.labels or ()),
        metrics=[[*astuple(metric)] for metric in facts.metrics],
    )
    session.add(version)
    session.flush()
    return version


def _check_task(session: Session, repo: RepoRow, facts: Facts) -> None:
    task = session.scalar(
        select(VersionRow.task).where(VersionRow.repo_id == repo.id, VersionRow.number == repo.newest)
    )
    if None not in (task, facts.task) and task != facts.task:
        raise Conflict(
            f"{repo.full_name} is taken by an adapter for {task}; this one is for {facts.task}",
            hint="Choose another name.",
        )
