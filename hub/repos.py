"""Repositories by name: made, moved, changed in their settings, deleted. Knows no files and no callers.

Every function runs inside a transaction of the database's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from adapthub.adapters.errors import AdapterNotFound, Conflict
from adapthub.hub import indexing, knowledge
from adapthub.hub.audit import MACHINE, Actor, Event
from adapthub.hub.events import happened, happened_together
from adapthub.hub.lookup import find_repo, missing, require_repo
from adapthub.hub.namespaces import check_namespace
from adapthub.hub.reference import Reference
from adapthub.hub.storage.governance_tables import ApprovalRow, GateRow, SignatureRow, WebhookRow
from adapthub.hub.storage.tables import (
    AliasMoveRow,
    AliasRow,
    CommitRow,
    FileRow,
    RefRow,
    RepoRow,
    VersionRow,
)
from adapthub.hub.storage.upkeep_tables import SentRow

Gated = Literal["auto", "manual"]


@dataclass(frozen=True)
class Settings:
    """Who may read a repository: `private` hides it from all but those with access; `gated` shows it and asks first."""

    private: bool = False
    gated: Gated | None = None


def make(
    session: Session, reference: Reference, settings: Settings = Settings(), *, actor: Actor = MACHINE
) -> RepoRow:
    """A new repository without commits. Raises Conflict where the name is taken, InvalidReference for a reserved one."""
    repo = _insert(session, reference, settings)
    happened_together(session, actor, [made_event(repo)])
    return repo


def find_or_make(session: Session, reference: Reference) -> tuple[RepoRow, bool]:
    """The repository of that name, locked; made where there is none, and then True: the caller has to tell of it
    (`made_event`), once it has written what other writers may be writing too, for the audit log lets in one at a time."""
    repo = find_repo(session, reference)
    made = repo is None
    if repo is None:
        try:
            repo = _insert(session, reference, Settings())
        except Conflict:
            repo, made = require_repo(session, reference), False
    return lock(session, repo), made


def made_event(repo: RepoRow) -> Event:
    """That `repo` was made."""
    return Event("repo.made", repo=repo.full_name, detail={"private": repo.private})


def _insert(session: Session, reference: Reference, settings: Settings) -> RepoRow:
    check_namespace(reference.namespace)
    if find_repo(session, reference) is not None:
        raise taken(reference)
    now = datetime.now(UTC)
    repo = RepoRow(
        namespace=reference.namespace,
        name=reference.name,
        private=settings.private,
        gated=settings.gated,
        created=now,
        modified=now,
        sequence=indexing.next_sequence(session),
        newest=0,
        tags=[],
        card={},
    )
    try:
        with session.begin_nested():
            session.add(repo)
    except IntegrityError as error:  # another writer was faster, as in PostgreSQL one may be
        raise taken(reference) from error
    indexing.index(session, repo, None, card="", metadata={}, now=now)
    return repo


def taken(reference: Reference) -> Conflict:
    """The error for a name that somebody has."""
    return Conflict(f"there is a repository {reference.full_name} already", hint="Choose another name.")


def lock(session: Session, repo: RepoRow) -> RepoRow:
    """The same repository as it is now, and no other writer's until this transaction ends. Raises AdapterNotFound where one
    that was faster deleted it, or gave it another name: what the caller may do was looked up for this one."""
    name = repo.full_name
    found = session.scalars(
        select(RepoRow)
        .where(RepoRow.id == repo.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one_or_none()
    if found is None or found.full_name != name:
        raise AdapterNotFound(f"{name} was deleted or renamed meanwhile")
    return found


def require_locked(session: Session, reference: Reference) -> RepoRow:
    """The repository of that name, no other writer's until this transaction ends. Raises AdapterNotFound."""
    found = session.scalar(
        select(RepoRow)
        .where(RepoRow.namespace == reference.namespace, RepoRow.name == reference.name)
        .with_for_update()
    )
    if found is None:
        raise missing(reference)
    return found


def move(session: Session, repo: RepoRow, target: Reference, *, card: str, actor: Actor = MACHINE) -> None:
    """Give `repo`, which the caller has locked, another name; what points at its versions by their digest does not notice.
    Its own gates come along, inside the namespace its webhooks too. `card`: its text, which it is found by. Raises Conflict
    where the name is taken, InvalidReference for a reserved one."""
    check_namespace(target.namespace)
    if find_repo(session, target) is not None:
        raise taken(target)
    before = repo.full_name
    _move_rules(session, repo, target)
    try:
        with session.begin_nested():
            repo.namespace, repo.name = target.namespace, target.name
    except IntegrityError as error:  # another writer was faster
        raise taken(target) from error
    version = newest_version(session, repo)
    indexing.index(session, repo, version, card=card, metadata=repo.card, now=datetime.now(UTC))
    happened(session, actor, "repo.moved", repo=before, to=repo.full_name)


def remove(session: Session, repo: RepoRow, *, actor: Actor = MACHINE) -> None:
    """Delete `repo`, which the caller has locked, with all its history. Its blobs stay until they are collected, and the
    audit log for good; so do gates and webhooks of its name, for whoever makes one of that name again."""
    indexing.forget(session, repo)
    full_name = repo.full_name
    versions = select(VersionRow.id).where(VersionRow.repo_id == repo.id)
    for beside in (ApprovalRow, SignatureRow):
        session.execute(delete(beside).where(beside.version_id.in_(versions)))
    knowledge.forget(session, repo)
    commits = select(CommitRow.id).where(CommitRow.repo_id == repo.id)
    session.execute(delete(AliasRow).where(AliasRow.repo_id == repo.id))
    # A rollback names the move that it took back, which may not go before it.
    session.execute(
        delete(AliasMoveRow).where(AliasMoveRow.repo_id == repo.id, AliasMoveRow.undoes.is_not(None))
    )
    for rows in (AliasMoveRow, RefRow, VersionRow, SentRow):
        session.execute(delete(rows).where(rows.repo_id == repo.id))
    session.execute(delete(FileRow).where(FileRow.commit_id.in_(commits)))
    session.execute(delete(CommitRow).where(CommitRow.repo_id == repo.id))
    session.execute(delete(RepoRow).where(RepoRow.id == repo.id))
    happened(session, actor, "repo.deleted", repo=full_name)


def newest_version(session: Session, repo: RepoRow) -> VersionRow | None:
    """The newest version of `repo`, if it has one."""
    return session.scalar(
        select(VersionRow).where(VersionRow.repo_id == repo.id, VersionRow.number == repo.newest)
    )


def _move_rules(session: Session, repo: RepoRow, target: Reference) -> None:
    """Gates of the repository's own go where it goes; one of the same alias that is there already stays. Webhooks go along
    inside the namespace alone: who was told of it here need not be told what it is elsewhere."""
    kept = select(GateRow.alias).where(GateRow.namespace == target.namespace, GateRow.name == target.name)
    own = (GateRow.namespace == repo.namespace, GateRow.name == repo.name)
    values = {"namespace": target.namespace, "name": target.name}
    session.execute(update(GateRow).where(*own, GateRow.alias.not_in(kept)).values(values))
    if target.namespace == repo.namespace:
        hooks = (WebhookRow.namespace == repo.namespace, WebhookRow.name == repo.name)
        session.execute(update(WebhookRow).where(*hooks).values(values))
