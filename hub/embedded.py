"""The embedded hub: a registry in this process, on SQLite and a folder of blobs. No server, no set-up.

    hub.sqlite3   what is known of every repository, commit, version, alias (hub/storage/tables.py)
    blobs/        the bytes of every file, by sha256 (hub/storage/blobs.py)

A push is one commit on main, which is a version: its blobs are stored first, where nothing sees them, then it appears in one
transaction;
killed anywhere, it leaves either nothing or all of it. Any number of processes may use one hub at once.
Serves nobody else, and knows neither users nor permissions: whoever can write the folder can publish.
"""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

from adapthub.adapters.admission import CARD, MANIFEST
from adapthub.adapters.artifact import Artifact
from adapthub.adapters.errors import AdmissionError, IntegrityError, InvalidReference, InvalidSettings
from adapthub.adapters.home import home
from adapthub.hub import aliases, family, repos, search
from adapthub.hub.access import Caller
from adapthub.hub.cache import Cache, Files
from adapthub.hub.cards import card_metadata
from adapthub.hub.commits import add_whole
from adapthub.hub.completeness import check_complete
from adapthub.hub.facts import is_unicode
from adapthub.hub.fitting import fit_of
from adapthub.hub.inspection import Inspected
from adapthub.hub.knowledge import known_of
from adapthub.hub.lookup import find_repo, require_repo, require_version
from adapthub.hub.records import aliases_of, bare_digest, facts_of, files_of, version_of
from adapthub.hub.reference import Reference, check_alias, parse_name
from adapthub.hub.registry import Details, Entry, Lineage, StoredFile, Version
from adapthub.hub.storage.tables import VersionRow
from adapthub.hub.store import Store
from adapthub.hub.text_files import is_text
from adapthub.hub.trees import Blob, Tree, git_oid
from adapthub.hub.versions import versions_of, with_digest


class EmbeddedHub:
    """A `Registry` below `root` (default: `hub/` in AdaptHub's home), made on first use.

    `cache` is where pulled adapters are kept (default: `cache/` in AdaptHub's home); `database` and `blobs` are URLs, where
    a hub's server keeps them elsewhere. Raises StorageError when the folder cannot be used or was written by a newer
    version of the tables.
    """

    def __init__(
        self,
        root: Path | None = None,
        *,
        cache: Path | None = None,
        database: str | None = None,
        blobs: str | None = None,
    ) -> None:
        root = home() / "hub" if root is None else root
        self.root = root
        self._store = Store.open(root, database=database, blobs=blobs)
        self._database = self._store.database
        self._cache = Cache(home() / "cache" if cache is None else cache)

    def push(self, artifact: Artifact, name: str, *, message: str = "", alias: str | None = None) -> Version:
        reference = _local(parse_name(name))
        if alias is not None:
            check_alias(alias)
        if not is_unicode(message):
            raise InvalidSettings("the message is not valid Unicode text")
        check_complete(artifact)
        fit = fit_of(self._store, artifact)
        tree, card = self._store_files(artifact)
        inspected = Inspected(artifact, card, _metadata(card), fit)
        with self._database.writing() as session:
            repo = repos.find_or_make(session, reference)
            version = with_digest(session, repo, artifact.digest)
            repeated = version is not None
            if version is None:
                version = add_whole(session, repo, tree, inspected, message=message)
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
            known = known_of(session, [row.id]).get(row.id)
            return Details(
                version=version_of(row),
                facts=facts_of(row),
                versions=tuple(version_of(version) for version in versions_of(session, row.repo)),
                aliases=aliases_of(row.repo),
                files=files,
                manifest=self._manifest(row, files),
                targets=None if known is None else known.structure.targets,
                fit=None if known is None else known.fit,
            )

    def lineage(self, ref: str | Reference) -> Lineage:
        reference = _parse(ref)
        with self._database.reading() as session:
            return family.lineage_of(session, Caller(alone=True), require_version(session, reference))

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
            repo = require_repo(session, reference)
            return version_of(aliases.rollback(session, repo, reference.full_name, alias))

    def available(self, name: str | Reference) -> bool:
        reference = _local(parse_name(name))
        with self._database.reading() as session:
            return find_repo(session, reference) is None

    def _store_files(self, artifact: Artifact) -> tuple[Tree, str]:
        """The files as they are stored now, and the text of the card."""
        self._store.blobs.discard_abandoned()
        tree: dict[str, Blob] = {}
        card = ""
        for path, record in artifact.files.items():
            source = artifact.path / path
            try:
                data = source.read_bytes()
            except OSError as error:
                raise IntegrityError(f"{source} can no longer be read: {error.strerror or error}") from error
            self._store.blobs.put(record.sha256, data, origin=str(source))
            sha1 = git_oid(data) if is_text(path, len(data), data) else None
            tree[path] = Blob(record.sha256, record.size, sha1)
            if path == CARD:
                card = data.decode("utf-8", errors="replace")
        self._store.register(tree.values())
        return tree, card

    def _fetch(self, reference: Reference) -> Files:
        with self._database.reading() as session:
            files = files_of(require_version(session, reference))
        return ((file.path, self._blob(reference, file)) for file in files)

    def _manifest(self, row: VersionRow, files: tuple[StoredFile, ...]) -> dict[str, Any] | None:
        reference = Reference(None, row.repo.namespace, row.repo.name, f"v{row.number}")
        for file in files:
            if file.path == MANIFEST:
                manifest: dict[str, Any] = json.loads(self._blob(reference, file))
                return manifest
        return None

    def _blob(self, reference: Reference, file: StoredFile) -> bytes:
        return self._store.blobs.get(file.sha256, origin=f"{file.path} of {reference}")


def _parse(ref: str | Reference) -> Reference:
    return _local(ref if isinstance(ref, Reference) else Reference.parse(ref))


def _local(reference: Reference) -> Reference:
    if reference.hub is not None:
        raise InvalidReference(
            f"{reference} names the hub {reference.hub!r}, and this is the embedded hub",
            hint=f"Leave out {reference.hub}::.",
        )
    return reference


def _metadata(card: str) -> dict[str, Any]:
    """What the card says of itself; one that cannot be read is a text like any other here."""
    try:
        return card_metadata(card)
    except AdmissionError:
        return {}
