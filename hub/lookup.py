"""From a reference to the version that it means, or an error that suggests near names. What URLs may name besides
versions is in `revisions`."""

from __future__ import annotations

from sqlalchemy import ColumnElement, or_, select, tuple_
from sqlalchemy.orm import Session

from adapthub.adapters.errors import AdapterNotFound, RevisionNotFound
from adapthub.adapters.suggest import did_you_mean
from adapthub.hub.reference import NEWEST, Reference
from adapthub.hub.storage.governance_tables import SignatureRow
from adapthub.hub.storage.tables import AliasRow, CommitRow, RepoRow, VersionRow
from adapthub.hub.storage.types import hex_range

_SUGGEST_AMONG = 100
_SUGGEST_VERSIONS = 8


def find_repo(session: Session, reference: Reference) -> RepoRow | None:
    """The adapter of that name, or None."""
    return session.scalar(
        select(RepoRow).where(RepoRow.namespace == reference.namespace, RepoRow.name == reference.name)
    )


def require_repo(session: Session, reference: Reference, *, near: bool = False) -> RepoRow:
    """The adapter of that name. Raises AdapterNotFound, suggesting `near` names for who may know of every name."""
    repo = find_repo(session, reference)
    if repo is None:
        raise missing(
            reference, did_you_mean(reference.full_name, _near_names(session, reference)) if near else ""
        )
    return repo


def missing(reference: Reference, hint: str | None = None) -> AdapterNotFound:
    """The error for a name that nothing has."""
    return AdapterNotFound(f"there is no adapter {reference.full_name} in this hub", hint=hint)


def require_version(session: Session, reference: Reference) -> VersionRow:
    """The version that `reference` means now, for who may know of every name, or that this one is there. Raises
    AdapterNotFound or RevisionNotFound, suggesting near ones."""
    repo = require_repo(session, reference, near=True)
    if not repo.newest:
        raise RevisionNotFound(
            f"{reference.full_name} has no version yet", hint="Push an adapter, or ask for a branch of it."
        )
    if reference.revision is None or reference.revision in NEWEST:
        found = [VersionRow.number == repo.newest]
    elif reference.number is not None:
        found = [VersionRow.number == reference.number]
    elif reference.commit is not None:
        found = [_begins_with(repo, reference.commit)]
    else:
        pointed = select(AliasRow.version_id).where(
            AliasRow.repo_id == repo.id, AliasRow.alias == reference.revision
        )
        found = [VersionRow.id == pointed.scalar_subquery()]
    versions = session.scalars(select(VersionRow).where(VersionRow.repo_id == repo.id, *found).limit(2)).all()
    if len(versions) == 1:
        return versions[0]
    if versions:
        raise RevisionNotFound(
            f"{reference} fits more than one version of {reference.full_name}",
            hint="Write more digits of it.",
        )
    raise RevisionNotFound(
        f"{reference.full_name} has no revision {reference.revision}",
        hint=_near_revisions(repo, str(reference.revision)),
    )


def _begins_with(repo: RepoRow, digits: str) -> ColumnElement[bool]:
    """The versions whose digest or commit begins so: a range of the index of each."""
    found = VersionRow.digest.between(*hex_range(digits, 64))
    if len(digits) > 40:
        return found
    of_commit = select(CommitRow.id).where(
        CommitRow.repo_id == repo.id, CommitRow.oid.between(*hex_range(digits, 40))
    )
    of_signed = select(SignatureRow.version_id).where(SignatureRow.commit_id.in_(of_commit))
    return or_(found, VersionRow.id.in_(of_commit), VersionRow.id.in_(of_signed))


def _near_names(session: Session, reference: Reference) -> list[str]:
    """Names that `reference` may be a slip of: those beside it in the order of names, and that name elsewhere."""
    parts = (RepoRow.namespace, RepoRow.name)
    name, wanted = tuple_(*parts), (reference.namespace, reference.name)
    before = select(*parts).where(name < wanted).order_by(*(part.desc() for part in parts))
    after = select(*parts).where(name > wanted).order_by(*parts)
    elsewhere = select(*parts).where(RepoRow.name == reference.name)
    rows = [
        row for query in (before, after, elsewhere) for row in session.execute(query.limit(_SUGGEST_AMONG))
    ]
    return [f"{namespace}/{name}" for namespace, name in rows]


def _near_revisions(repo: RepoRow, wrong: str) -> str:
    oldest = max(repo.newest - _SUGGEST_VERSIONS, 0)
    versions = [f"v{number}" for number in range(repo.newest, oldest, -1)]
    aliases = [alias.alias for alias in repo.aliases]
    return did_you_mean(wrong, [*versions, *aliases]) or f"The newest version is v{repo.newest}."
