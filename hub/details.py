"""Everything about one version, as a registry shows it, from the tables and the blobs."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy.orm import Session

from adapthub.adapters.admission import MANIFEST
from adapthub.hub.knowledge import known_of
from adapthub.hub.records import aliases_of, facts_of, files_of, version_of
from adapthub.hub.registry import Details, StoredFile
from adapthub.hub.storage.tables import VersionRow
from adapthub.hub.store import Store
from adapthub.hub.versions import versions_of


def read_details(store: Store, session: Session, row: VersionRow, *, with_manifest: bool = True) -> Details:
    """The details of the version `row`; without the manifest, a file, for whom its files are not. Raises IntegrityError
    where that is damaged."""
    files = files_of(row)
    known = known_of(session, [row.id]).get(row.id)
    return Details(
        version=version_of(row),
        facts=facts_of(row),
        versions=tuple(version_of(version) for version in versions_of(session, row.repo)),
        aliases=aliases_of(row.repo),
        files=files,
        manifest=_manifest(store, row, files) if with_manifest else None,
        targets=None if known is None else known.structure.targets,
        fit=None if known is None else known.fit,
    )


def _manifest(store: Store, row: VersionRow, files: tuple[StoredFile, ...]) -> dict[str, Any] | None:
    for file in files:
        if file.path == MANIFEST:
            where = f"{file.path} of {row.repo.full_name}@v{row.number}"
            manifest: dict[str, Any] = json.loads(store.blobs.get(file.sha256, origin=where))
            return manifest
    return None
