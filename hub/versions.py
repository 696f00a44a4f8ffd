"""When a commit on main is a version: its tree is a whole adapter that the repository does not hold yet.

Computes no digests and reads no files (inspection has).
"""

from __future__ import annotations

from dataclasses import astuple

from sqlalchemy import or_, select
from sqlalchemy.orm import Session, joinedload

from adapthub.adapters.description import Description
from adapthub.adapters.errors import Conflict
from adapthub.hub.facts import read_facts
from adapthub.hub.records import bare_digest
from adapthub.hub.registry import Facts
from adapthub.hub.storage.tables import CommitRow, RepoRow, VersionRow


def newest_and_known(
    session: Session, repo: RepoRow, digest: str | None
) -> tuple[VersionRow | None, VersionRow | None]:
    """The newest version of `repo`, and the one that has the digest "sha256:<hex>": None where there is none."""
    bare = None if digest is None else bare_digest(digest)
    wanted = VersionRow.number == repo.newest
    rows = session.scalars(
        select(VersionRow).where(
            VersionRow.repo_id == repo.id,
            wanted if bare is None else or_(wanted, VersionRow.digest == bare),
        )
    ).all()
    newest = next((row for row in rows if row.number == repo.newest), None)
    return newest, next((row for row in rows if row.digest == bare), None)


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


def next_version(
    session: Session, repo: RepoRow, commit: CommitRow, adapter: Description, newest: VersionRow | None
) -> VersionRow:
    """Let `commit` be the version of `repo`, which the transaction has locked, after its `newest`; written with the next
    flush. Raises Conflict for an adapter of another task than that one's."""
    facts = read_facts(adapter)
    if newest is not None:
        _check_task(repo, newest.task, facts)
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
    return version


def _check_task(repo: RepoRow, task: str | None, facts: Facts) -> None:
    if None not in (task, facts.task) and task != facts.task:
        raise Conflict(
            f"{repo.full_name} is taken by an adapter for {task}; this one is for {facts.task}",
            hint="Choose another name.",
        )
