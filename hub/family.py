"""Lineage by a hub's tables: the edges that manifests' parents make, filled at publish; ancestors and descendants.

What `lineage.ancestors` finds by asking a registry for one manifest after another, these tables know. A parent is found by
its digest, whatever it is called now; of several names that hold it, the one that was written comes first. What the caller
may not see is as if it were not here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import Select, delete, insert, select
from sqlalchemy.orm import Session

from adapthub.adapters.errors import AdmissionError
from adapthub.adapters.manifest import Manifest
from adapthub.hub.access import Caller, visible
from adapthub.hub.lineage import MAX_VERSIONS, parents_in
from adapthub.hub.records import bare_digest
from adapthub.hub.registry import Ancestor, Lineage
from adapthub.hub.storage.knowledge_tables import KnowledgeRow, ParentRow
from adapthub.hub.storage.tables import RepoRow, VersionRow

MAX_PARENTS = 32
"""Of one version. An expression sums 16 adapters at most; a lineage of MAX_VERSIONS stays a few megabytes."""


class Here(NamedTuple):
    """What lineage says of a version that is here. Rows with their cards and metrics would take ten times as long."""

    id: int
    digest: str
    number: int
    namespace: str
    repo: str

    @property
    def full_name(self) -> str:
        return f"{self.namespace}/{self.repo}"


class _Edge(NamedTuple):
    """A parent as a version's manifest names it."""

    parent: str
    name: str


def record(session: Session, version: VersionRow, manifest: Manifest | None) -> list[str]:
    """Keep the parents that `manifest` names by digest, and return the others as they were written. Raises AdmissionError
    for more than MAX_PARENTS."""
    if manifest is None or not manifest.parents:
        return []
    if len(manifest.parents) > MAX_PARENTS:
        raise AdmissionError(
            f"the manifest names {len(manifest.parents)} parents; at most {MAX_PARENTS} are kept"
        )
    pinned, others = parents_in({"parents": manifest.parents})
    rows = [
        {
            "version_id": version.id,
            "parent": bare_digest(digest),
            "name": parent.full_name,
            "position": position,
        }
        for position, (digest, parent) in enumerate(pinned.items())
    ]
    if rows:
        session.execute(insert(ParentRow), rows)
    return others


def forget(session: Session, repo: RepoRow) -> None:
    """Before the versions of `repo` go: the edges to their parents."""
    versions = select(VersionRow.id).where(VersionRow.repo_id == repo.id)
    session.execute(delete(ParentRow).where(ParentRow.version_id.in_(versions)))


def lineage_of(session: Session, caller: Caller, version: VersionRow, *, most: int | None = None) -> Lineage:
    """What `version` comes from and what came of it, as far as `caller` may see: each way the nearest `most`, the version
    itself counted among what it comes from; MAX_VERSIONS if nothing is said."""
    most = most or MAX_VERSIONS
    root = f"sha256:{version.digest}"
    known = session.get(KnowledgeRow, version.id)
    above, cut_above = _ancestors(session, caller, version, most)
    below, cut_below = _descendants(session, caller, version, most)
    return Lineage(
        root=root,
        versions=above,
        unpinned=() if known is None else tuple(known.unpinned),
        cut=cut_above or cut_below,
        descendants=below,
    )


def _ancestors(
    session: Session, caller: Caller, version: VersionRow, most: int
) -> tuple[dict[str, Ancestor], bool]:
    names = {version.digest: version.repo.full_name}  # of all that the answer will have
    here = {
        version.digest: Here(
            version.id, version.digest, version.number, version.repo.namespace, version.repo.name
        )
    }
    found: dict[str, Ancestor] = {}
    level = [version.digest]
    cut = False
    while level:
        edges = _parents(session, [here[digest].id for digest in level if digest in here])
        later: list[str] = []
        for digest in level:
            row = here.get(digest)
            parents = edges.get(row.id, ()) if row is not None else ()
            found[f"sha256:{digest}"] = _node(digest, names[digest], row, [edge.parent for edge in parents])
            for edge in parents:
                if edge.parent in names:
                    continue
                if len(names) == most:
                    cut = True
                    break
                names[edge.parent] = edge.name
                later.append(edge.parent)
        level = later
        here |= _versions(session, caller, {digest: names[digest] for digest in level})
    return found, cut


def _descendants(
    session: Session, caller: Caller, version: VersionRow, most: int
) -> tuple[dict[str, Ancestor], bool]:
    found: dict[str, Ancestor] = {}
    level = [version.digest]
    cut = False
    while level and len(found) < most:
        rows = _children(session, caller, level, most=most + 1)
        edges = _parents(session, [row.id for row in rows])
        cut = cut or len(rows) > most  # what was left out may be no copy of what is here
        level = []
        for row in rows:
            if row.digest != version.digest and f"sha256:{row.digest}" not in found:
                if len(found) == most:
                    return found, True
                parents = [edge.parent for edge in edges.get(row.id, ())]
                found[f"sha256:{row.digest}"] = _node(row.digest, row.full_name, row, parents)
                level.append(row.digest)
    return found, cut or bool(level)


def _node(digest: str, name: str, row: Here | None, parents: Iterable[str]) -> Ancestor:
    return Ancestor(
        digest=f"sha256:{digest}",
        name=name if row is None else row.full_name,
        number=None if row is None else row.number,
        parents=tuple(f"sha256:{parent}" for parent in parents),
        found=row is not None,
    )


def _parents(session: Session, version_ids: Sequence[int]) -> dict[int, list[_Edge]]:
    """The edges from these versions to their parents, in the order in which they were written."""
    query = select(ParentRow.version_id, ParentRow.parent, ParentRow.name)
    query = query.where(ParentRow.version_id.in_(version_ids))
    edges: dict[int, list[_Edge]] = {}
    for version_id, parent, name in session.execute(query.order_by(ParentRow.version_id, ParentRow.position)):
        edges.setdefault(version_id, []).append(_Edge(parent, name))
    return edges


def _versions(session: Session, caller: Caller, names: dict[str, str]) -> dict[str, Here]:
    """The versions with these digests that are here, by digest; `names` says which name comes first."""
    query = _visible(caller).where(VersionRow.digest.in_(names)).order_by(VersionRow.id.desc())
    found: dict[str, Here] = {}
    for row in map(Here._make, session.execute(query)):
        if row.digest not in found or found[row.digest].full_name != names[row.digest]:
            found[row.digest] = row
    return found


def _children(session: Session, caller: Caller, digests: Sequence[str], *, most: int) -> list[Here]:
    children = select(ParentRow.version_id).where(ParentRow.parent.in_(digests))
    query = _visible(caller).where(VersionRow.id.in_(children)).order_by(VersionRow.id).limit(most)
    return [*map(Here._make, session.execute(query))]


def _visible(caller: Caller) -> Select[int, str, int, str, str]:
    return (
        select(VersionRow.id, VersionRow.digest, VersionRow.number, RepoRow.namespace, RepoRow.name)
        .join(RepoRow, RepoRow.id == VersionRow.repo_id)
        .where(visible(caller))
    )
