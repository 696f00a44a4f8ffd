"""Which adapters of a hub work together with one of them: `composition`, over what was kept of each at its publish.

Reads no files. Versions from before that was kept are not known to go with anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from adapthub.adapters.errors import NotFound
from adapthub.hub.access import Caller
from adapthub.hub.composition import Composition, Traits, compose
from adapthub.hub.knowledge import known_of, traits_of_version
from adapthub.hub.listing import Query, list_repos
from adapthub.hub.storage.tables import RepoRow, VersionRow


@dataclass(frozen=True)
class Companion:
    """Another adapter, by `namespace/name` and version number, and what the two do together."""

    name: str
    number: int
    composition: Composition


@dataclass(frozen=True)
class Companions:
    """Adapters in order, and the cursor that the next page begins after; None where this is the last one."""

    companions: Sequence[Companion]
    next: str | None


def companion(session: Session, first: VersionRow, second: VersionRow) -> Companion:
    """What two versions do together. Raises NotFound for one of which that was not kept."""
    known = known_of(session, [first.id, second.id])
    traits: list[Traits] = []
    for version in (first, second):
        if version.id not in known:
            raise _not_kept(version)
        traits.append(traits_of_version(version, known[version.id]))
    return Companion(second.repo.full_name, second.number, compose(*traits))


def companions(
    session: Session, caller: Caller, version: VersionRow, *, limit: int, after: str | None
) -> Companions:
    """A page of the newest versions of other adapters of the same base, those that changed last first. Nothing where the
    base's fingerprint was not recorded. Raises NotFound where nothing was kept of `version`."""
    known = known_of(session, [version.id]).get(version.id)
    if known is None:
        raise _not_kept(version)
    if version.base_fingerprint is None:
        return Companions((), None)
    own = traits_of_version(version, known)
    same = Query(base=version.base_fingerprint, adapters=True, limit=limit, after=after)
    page = list_repos(session, caller, same)
    others = _newest(session, [id for id in page.ids if id != version.repo_id])
    kept = known_of(session, [other.id for other in others])
    found = [
        Companion(other.repo.full_name, other.number, compose(own, traits_of_version(other, kept[other.id])))
        for other in others
        if other.id in kept
    ]
    return Companions(found, page.next)


def _newest(session: Session, repo_ids: Sequence[int]) -> list[VersionRow]:
    """The newest version of each of these repositories, in this order."""
    query = (
        select(VersionRow)
        .join(RepoRow, RepoRow.id == VersionRow.repo_id)
        .where(RepoRow.id.in_(repo_ids), VersionRow.number == RepoRow.newest)
        .options(joinedload(VersionRow.repo))
    )
    rows = {row.repo_id: row for row in session.scalars(query)}
    return [rows[id] for id in repo_ids]


def _not_kept(version: VersionRow) -> NotFound:
    return NotFound(
        f"what {version.repo.full_name}@v{version.number} goes with is not known: it was published before that was kept",
        hint="Publish it again with another card.",
    )
