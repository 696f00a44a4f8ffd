"""From a reference to the row that it means, or an error that suggests near names."""

from __future__ import annotations

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from adapthub.adapters.errors import AdapterNotFound, RevisionNotFound
from adapthub.adapters.suggest import did_you_mean
from adapthub.hub.reference import NEWEST, Reference
from adapthub.hub.storage.tables import AdapterRow, AliasRow, VersionRow

_SUGGEST_AMONG = 1000
_SUGGEST_VERSIONS = 8


def find_adapter(session: Session, reference: Reference) -> AdapterRow | None:
    """The adapter of that name, or None."""
    return session.scalar(
        select(AdapterRow).where(
            AdapterRow.namespace == reference.namespace, AdapterRow.name == reference.name
        )
    )


def require_adapter(session: Session, reference: Reference) -> AdapterRow:
    """The adapter of that name. Raises AdapterNotFound, suggesting near names."""
    adapter = find_adapter(session, reference)
    if adapter is None:
        raise AdapterNotFound(
            f"there is no adapter {reference.full_name} in this hub",
            hint=did_you_mean(reference.full_name, _near_names(session, reference)),
        )
    return adapter


def require_version(session: Session, reference: Reference) -> VersionRow:
    """The version that `reference` means now. Raises AdapterNotFound or RevisionNotFound, suggesting near
    ones."""
    adapter = require_adapter(session, reference)
    if reference.revision is None or reference.revision in NEWEST:
        found = [VersionRow.number == adapter.newest]
    elif reference.number is not None:
        found = [VersionRow.number == reference.number]
    elif reference.commit is not None:
        # A prefix as a range, which the index of (adapter, digest) answers: hex digits sort before "g".
        found = [VersionRow.digest >= reference.commit, VersionRow.digest < f"{reference.commit}g"]
    else:
        pointed = select(AliasRow.version_id).where(
            AliasRow.adapter_id == adapter.id, AliasRow.alias == reference.revision
        )
        found = [VersionRow.id == pointed.scalar_subquery()]
    versions = session.scalars(
        select(VersionRow).where(VersionRow.adapter_id == adapter.id, *found).limit(2)
    ).all()
    if len(versions) == 1:
        return versions[0]
    if versions:
        raise RevisionNotFound(
            f"{reference} fits more than one version of {reference.full_name}",
            hint="Write more digits of it.",
        )
    raise RevisionNotFound(
        f"{reference.full_name} has no revision {reference.revision}",
        hint=_near_revisions(adapter, str(reference.revision)),
    )


def _near_names(session: Session, reference: Reference) -> list[str]:
    akin = or_(AdapterRow.namespace == reference.namespace, AdapterRow.name == reference.name)
    rows = session.execute(
        select(AdapterRow.namespace, AdapterRow.name).order_by(akin.desc()).limit(_SUGGEST_AMONG)
    )
    return [f"{namespace}/{name}" for namespace, name in rows]


def _near_revisions(adapter: AdapterRow, wrong: str) -> str:
    oldest = max(adapter.newest - _SUGGEST_VERSIONS, 0)
    versions = [f"v{number}" for number in range(adapter.newest, oldest, -1)]
    aliases = [alias.alias for alias in adapter.aliases]
    return did_you_mean(wrong, [*versions, *aliases]) or f"The newest version is v{adapter.newest}."
