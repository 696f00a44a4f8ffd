"""What a hub knows of a version beyond what it says of itself: written in the transaction that makes the version.

Its fit (fitting), its structure, its place in the lineage (family), what it came to (results). Reads no files.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import delete, select
from sqlalchemy.orm import Session, joinedload

from adapthub.adapters.description import Description
from adapthub.adapters.files import sha256_bytes
from adapthub.hub import family, results
from adapthub.hub.composition import Traits
from adapthub.hub.registry import Fit
from adapthub.hub.storage.dialects import insert_new
from adapthub.hub.storage.knowledge_tables import KnowledgeRow, StructureRow
from adapthub.hub.storage.tables import RepoRow, VersionRow
from adapthub.hub.structure import Structure, structure_of, to_json, unpacked


@dataclass(frozen=True)
class Known:
    """What was found of one version when it was published."""

    fit: Fit
    structure: Structure


def record(session: Session, version: VersionRow, adapter: Description, fit: Fit) -> None:
    """Keep what is known of `version`, which is `adapter`, in the caller's transaction. Raises AdmissionError for more
    parents than are kept."""
    unpinned = family.record(session, version, adapter.manifest)
    session.add(
        KnowledgeRow(
            version_id=version.id,
            structure_id=_structure(session, structure_of(adapter)),
            verdict=fit.verdict,
            checked=None if fit.base is None else fit.base.removeprefix("sha256:"),
            differences=list(fit.differences),
            unpinned=unpinned,
        )
    )
    results.record(session, version, adapter.manifest)


def forget(session: Session, repo: RepoRow) -> None:
    """Before the versions of `repo` go: all that is known of them."""
    results.forget(session, repo)
    family.forget(session, repo)
    versions = select(VersionRow.id).where(VersionRow.repo_id == repo.id)
    session.execute(delete(KnowledgeRow).where(KnowledgeRow.version_id.in_(versions)))


def known_of(session: Session, version_ids: Iterable[int]) -> dict[int, Known]:
    """What is known of versions, by their keys; those from before it was recorded are not there."""
    query = select(KnowledgeRow).where(KnowledgeRow.version_id.in_(list(version_ids)))
    rows = session.scalars(query.options(joinedload(KnowledgeRow.structure)))
    return {
        row.version_id: Known(_fit(row), unpacked(row.structure.digest, row.structure.document))
        for row in rows
    }


def traits_of_version(version: VersionRow, known: Known) -> Traits:
    """What of a version decides what it goes with."""
    return known.structure.traits(
        base=version.base_fingerprint, task=version.task, labels=tuple(version.labels) or None
    )


def _structure(session: Session, structure: Structure) -> int:
    """The key of the row of this structure, which is made where there is none."""
    document = to_json(structure)
    digest = sha256_bytes(document)
    find = select(StructureRow.id).where(StructureRow.digest == digest)
    key = session.scalar(find)
    if key is None:
        insert_new(session, StructureRow, [{"digest": digest, "document": zlib.compress(document)}])
        key = session.scalar(find)
        assert key is not None
    return key


def _fit(row: KnowledgeRow) -> Fit:
    base = None if row.checked is None else f"sha256:{row.checked}"
    return Fit("fits" if row.verdict == "fits" else "unknown", base, tuple(row.differences))
