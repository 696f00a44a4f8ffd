"""The embedded hub: a registry in this process, on SQLite and a folder of blobs. No server, no set-up.

    hub.sqlite3   what is known of every repository, commit, version, alias (hub/storage/tables.py)
    blobs/        the bytes of every file, by sha256 (hub/storage/blobs.py)

A push is one commit on main, which is a version: its blobs are stored first, where nothing sees them, then it appears in one
transaction; killed anywhere, it leaves either nothing or all of it. Any number of processes may use one hub at once.
Serves nobody else, and knows neither users nor permissions: whoever can write the folder can publish. Gates hold here too.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapthub.adapters.admission import CARD, SIGNATURE
from adapthub.adapters.artifact import Artifact
from adapthub.adapters.errors import (
    AdmissionError,
    IntegrityError,
    InvalidReference,
    NotFound,
    StorageError,
)
from adapthub.adapters.files import sha256_bytes
from adapthub.adapters.home import home
from adapthub.hub import aliases, family, repos, search, signatures
from adapthub.hub.access import Caller
from adapthub.hub.cache import Cache, Files
from adapthub.hub.cards import card_metadata
from adapthub.hub.commits import add_signature
from adapthub.hub.completeness import check_complete
from adapthub.hub.details import read_details
from adapthub.hub.inspection import Inspected
from adapthub.hub.lookup import find_repo, require_repo, require_version
from adapthub.hub.promotion import ahead_of, promote, refusals_told
from adapthub.hub.publishing import check_words, publish
from adapthub.hub.records import bare_digest, files_of, version_of
from adapthub.hub.reference import Reference, check_alias, parse_name
from adapthub.hub.registry import Details, Entry, Lineage, StoredFile, Version
from adapthub.hub.storage.retrying import retried
from adapthub.hub.store import Store
from adapthub.hub.text_files import is_text
from adapthub.hub.trees import Blob, Tree, git_oid


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
        check_words(message, alias)
        check_complete(artifact)
        if artifact.signature is not None:
            _check_signature(artifact.signature, artifact.sha256s, str(artifact.path))
        tree, card = self._store_files(artifact)
        inspected = Inspected(artifact, card, _metadata(card))
        return publish(self._store, reference, tree, inspected, message=message, alias=alias)

    def resolve(self, ref: str | Reference) -> Version:
        reference = _parse(ref)
        with self._database.reading() as session:
            return version_of(require_version(session, reference))

    def pull(self, ref: str | Reference) -> Artifact:
        reference = _parse(ref)
        whole = reference.commit is not None and len(reference.commit) == 64
        digest = f"sha256:{reference.commit}" if whole else self.resolve(reference).digest
        pinned = Reference(None, reference.namespace, reference.name, bare_digest(digest))
        return self._cache.pull(digest, lambda: self._fetch(pinned), self._signature(pinned))

    @retried
    def attach_signature(self, ref: str | Reference, bundle: bytes) -> Version:
        reference = _parse(ref)
        with self._database.reading() as session:
            files = signatures.files_of_version(session, require_version(session, reference))
        _check_signature(bundle, signatures.digests_of(files), str(reference))
        blob = self._put(SIGNATURE, bundle, origin=f"the signature of {reference}")
        self._store.register([blob])
        with self._database.writing() as session:
            version = require_version(session, reference)
            repo = repos.lock(session, version.repo)
            if signatures.files_of_version(session, version) != files:
                raise IntegrityError(f"{reference} moved while it was signed", hint="Sign it again.")
            add_signature(session, self._store, repo, version, blob)
            return version_of(version)

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
            return read_details(self._store, session, require_version(session, reference))

    def lineage(self, ref: str | Reference) -> Lineage:
        reference = _parse(ref)
        with self._database.reading() as session:
            return family.lineage_of(session, Caller(alone=True), require_version(session, reference))

    @retried
    def promote(self, ref: str | Reference, alias: str) -> Version:
        reference = _parse(ref)
        check_alias(alias)
        with self._database.reading() as session:
            ahead = ahead_of(session, self._store, require_version(session, reference), alias)
        with refusals_told(self._store, reference.full_name), self._database.writing() as session:
            version = require_version(session, reference)
            promote(session, ahead, version, alias)
            return version_of(version)

    @retried
    def rollback(self, name: str | Reference, alias: str) -> Version:
        reference = _local(parse_name(name))
        check_alias(alias)
        with self._database.writing() as session:
            repo = require_repo(session, reference, near=True)
            return version_of(aliases.rollback(session, repo, reference.full_name, alias))

    def available(self, name: str | Reference) -> bool:
        reference = _local(parse_name(name))
        with self._database.reading() as session:
            return find_repo(session, reference) is None

    def check_may_push(self, name: str | Reference) -> None:
        """Whether the disk lets us: whoever may write there may push. Raises StorageError."""
        _local(parse_name(name))
        with self._database.writing():
            pass

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
            tree[path] = self._put(path, data, origin=str(source), sha256=record.sha256)
            if path == CARD:
                card = data.decode("utf-8", errors="replace")
        if artifact.signature is not None:
            tree[SIGNATURE] = self._put(SIGNATURE, artifact.signature, origin=str(artifact.path / SIGNATURE))
        self._store.register(tree.values())
        return tree, card

    def _put(self, path: str, data: bytes, *, origin: str, sha256: str | None = None) -> Blob:
        """Store the bytes of a file, whose digest is `sha256` if it is known."""
        digest = sha256 or sha256_bytes(data)
        self._store.blobs.put(digest, data, origin=origin)
        return Blob(digest, len(data), git_oid(data) if is_text(path, len(data), data) else None)

    def _signature(self, reference: Reference) -> bytes | None:
        """The signature of a version, if this hub can be asked, knows it and has one: the cache may do without it."""
        try:
            with self._database.reading() as session:
                blob = signatures.signature_of(session, require_version(session, reference))
            return None if blob is None else self._store.read(blob, 0, blob.size)
        except (NotFound, StorageError):
            return None

    def _fetch(self, reference: Reference) -> Files:
        with self._database.reading() as session:
            files = files_of(require_version(session, reference))
        return ((file.path, self._blob(reference, file)) for file in files)

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


def _check_signature(bundle: bytes, files: Mapping[str, str], where: str) -> None:
    from adapthub.hub import signing

    signing.check_is_of(bundle, files, where)


def _metadata(card: str) -> dict[str, Any]:
    """What the card says of itself; one that cannot be read is a text like any other here."""
    try:
        return card_metadata(card)
    except AdmissionError:
        return {}
