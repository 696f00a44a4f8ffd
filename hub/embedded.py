"""The embedded hub: a registry in this process, on SQLite and a folder of blobs. No server, no set-up.

    hub.sqlite3   what is known of every adapter, version, alias (hub/storage/tables.py)
    blobs/        the bytes of every file, by sha256 (hub/storage/blobs.py)

A push stores the blobs first, where nothing sees them, then makes the version visible in one transaction;
killed anywhere, it leaves either nothing or all of it. Any number of processes may use one hub at once.
Serves nobody else, and knows neither users nor permissions: whoever can write the folder can publish.
"""

from __future__ import annotations

import builtins
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from adapthub.adapters.admission import CARD, MANIFEST
from adapthub.adapters.artifact import Artifact
from adapthub.adapters.errors import Conflict, IntegrityError, InvalidReference, InvalidSettings
from adapthub.adapters.home import home
from adapthub.hub import aliases, search
from adapthub.hub.cache import Cache, Files
from adapthub.hub.completeness import check_complete
from adapthub.hub.facts import is_unicode, read_facts, search_text
from adapthub.hub.lookup import find_adapter, require_adapter, require_version
from adapthub.hub.records import (
    aliases_of,
    bare_digest,
    facts_of,
    files_of,
    version_of,
    version_row,
)
from adapthub.hub.reference import Reference, check_alias, parse_name
from adapthub.hub.registry import Details, Entry, Facts, StoredFile, Version
from adapthub.hub.storage.blobs import Blobs
from adapthub.hub.storage.database import Database
from adapthub.hub.storage.tables import HUB, AdapterRow, VersionRow


class EmbeddedHub:
    """A `Registry` below `root` (default: `hub/` in AdaptHub's home), made on first use.

    `cache` is where pulled adapters are kept (default: `cache/` in AdaptHub's home). Raises StorageError when
    the folder cannot be used or was written by another version of the tables.
    """

    def __init__(self, root: Path | None = None, *, cache: Path | None = None) -> None:
        root = home() / "hub" if root is None else root
        self.root = root
        self._blobs = Blobs(root / "blobs")
        self._database = Database(root / "hub.sqlite3", HUB)
        self._cache = Cache(home() / "cache" if cache is None else cache)

    def push(self, artifact: Artifact, name: str, *, message: str = "", alias: str | None = None) -> Version:
        reference = _local(parse_name(name))
        if alias is not None:
            check_alias(alias)
        if not is_unicode(message):
            raise InvalidSettings("the message is not valid Unicode text")
        check_complete(artifact)
        self._store_files(artifact)
        with self._database.writing() as session:
            adapter = find_adapter(session, reference)
            version = None if adapter is None else _with_digest(session, adapter, artifact.digest)
            repeated = version is not None
            if version is None:
                version = _add_version(session, reference, adapter, artifact, message)
            if alias is not None:
                aliases.promote(session, version, alias)
            return version_of(version, repeated=repeated)

    def resolve(self, ref: str | Reference) -> Version:
        reference = _parse(ref)
        with self._database.reading() as session:
            return version_of(require_version(session, reference))

    def pull(self, ref: str | Reference) -> Artifact:
        reference = _parse(ref)
        whole = reference.commit is not None and len(reference.commit) == 64
        digest = f"sha256:{reference.commit}" if whole else self.resolve(reference).digest
        pinned = Reference(None, reference.namespace, reference.name, bare_digest(digest))
        return self._cache.pull(digest, lambda: self._fetch(pinned))

    def list(self, namespace: str | None = None) -> builtins.list[Entry]:
        with self._database.reading() as session:
            return search.list_entries(session, namespace)

    def search(
        self,
        text: str | None = None,
        *,
        base: str | None = None,
        task: str | None = None,
        metric: str | None = None,
        method: str | None = None,
        label: str | None = None,
    ) -> builtins.list[Entry]:
        with self._database.reading() as session:
            return search.search_entries(
                session, text, base=base, task=task, metric=metric, method=method, label=label
            )

    def show(self, ref: str | Reference) -> Details:
        reference = _parse(ref)
        with self._database.reading() as session:
            row = require_version(session, reference)
            files = files_of(row)
            return Details(
                version=version_of(row),
                facts=facts_of(row, row.metrics),
                versions=tuple(version_of(version) for version in row.adapter.versions),
                aliases=aliases_of(row.adapter),
                files=files,
                manifest=self._manifest(row, files),
            )

    def promote(self, ref: str | Reference, alias: str) -> Version:
        reference = _parse(ref)
        check_alias(alias)
        with self._database.writing() as session:
            version = require_version(session, reference)
            aliases.promote(session, version, alias)
            return version_of(version)

    def rollback(self, name: str | Reference, alias: str) -> Version:
        reference = _local(parse_name(name))
        check_alias(alias)
        with self._database.writing() as session:
            adapter = require_adapter(session, reference)
            return version_of(aliases.rollback(session, adapter, reference.full_name, alias))

    def available(self, name: str | Reference) -> bool:
        reference = _local(parse_name(name))
        with self._database.reading() as session:
            return find_adapter(session, reference) is None

    def _store_files(self, artifact: Artifact) -> None:
        self._blobs.discard_abandoned()
        for path, record in artifact.files.items():
            source = artifact.path / path
            try:
                data = source.read_bytes()
            except OSError as error:
                raise IntegrityError(f"{source} can no longer be read: {error.strerror or error}") from error
            self._blobs.put(record.sha256, data, origin=str(source))

    def _fetch(self, reference: Reference) -> Files:
        with self._database.reading() as session:
            files = files_of(require_version(session, reference))
        return ((file.path, self._blob(reference, file)) for file in files)

    def _manifest(self, row: VersionRow, files: tuple[StoredFile, ...]) -> dict[str, Any] | None:
        reference = Reference(None, row.adapter.namespace, row.adapter.name, f"v{row.number}")
        for file in files:
            if file.path == MANIFEST:
                manifest: dict[str, Any] = json.loads(self._blob(reference, file))
                return manifest
        return None

    def _blob(self, reference: Reference, file: StoredFile) -> bytes:
        return self._blobs.get(file.sha256, origin=f"{file.path} of {reference}")


def _parse(ref: str | Reference) -> Reference:
    return _local(ref if isinstance(ref, Reference) else Reference.parse(ref))


def _local(reference: Reference) -> Reference:
    if reference.hub is not None:
        raise InvalidReference(
            f"{reference} names the hub {reference.hub!r}, and this is the embedded hub",
            hint=f"Leave out {reference.hub}::.",
        )
    return reference


def _with_digest(session: Session, adapter: AdapterRow, digest: str) -> VersionRow | None:
    return session.scalar(
        select(VersionRow).where(
            VersionRow.adapter_id == adapter.id, VersionRow.digest == bare_digest(digest)
        )
    )


def _add_version(
    session: Session, reference: Reference, adapter: AdapterRow | None, artifact: Artifact, message: str
) -> VersionRow:
    facts = read_facts(artifact)
    if adapter is None:
        adapter = AdapterRow(namespace=reference.namespace, name=reference.name, newest=0)
        session.add(adapter)
    else:
        _check_task(session, reference, adapter, facts)
    adapter.newest += 1
    version = version_row(artifact, facts, number=adapter.newest, created=datetime.now(UTC), message=message)
    version.adapter = adapter
    session.add(version)
    session.flush()
    text = search_text(reference.full_name, facts, message, _card(artifact))
    session.execute(delete(search.TEXT).where(search.TEXT.c.rowid == adapter.id))
    session.execute(insert(search.TEXT).values(rowid=adapter.id, text=text))
    return version


def _check_task(session: Session, reference: Reference, adapter: AdapterRow, facts: Facts) -> None:
    task = session.scalar(
        select(VersionRow.task).where(
            VersionRow.adapter_id == adapter.id, VersionRow.number == adapter.newest
        )
    )
    if None not in (task, facts.task) and task != facts.task:
        raise Conflict(
            f"{reference.full_name} is taken by an adapter for {task}; this one is for {facts.task}",
            hint="Choose another name.",
        )


def _card(artifact: Artifact) -> str:
    if CARD not in artifact.files:
        return ""
    return (artifact.path / CARD).read_bytes().decode("utf-8", errors="replace")
