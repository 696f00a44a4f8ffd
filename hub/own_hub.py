"""A hub of AdaptHub's own over HTTP: the same invariants as the embedded one, for the server keeps them.

Small adapters come in one bundle, large ones file by file. Keeps nothing; `remote` has the cache.
"""

from __future__ import annotations

import builtins
import io
import re
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlencode, urljoin

from adapthub.adapters.admission import MAX_BYTES, SIGNATURE
from adapthub.adapters.description import digest_of
from adapthub.adapters.errors import IntegrityError, StorageError
from adapthub.adapters.files import sha256_bytes
from adapthub.hub.connection import value_of
from adapthub.hub.downloading import Wanted, Watch, check_bytes, download
from adapthub.hub.reference import Reference
from adapthub.hub.registry import Details, Entry, Lineage, StoredFile, Version
from adapthub.hub.sending import send
from adapthub.hub.speaker import Pin, read_file
from adapthub.hub.text_files import is_text
from adapthub.hub.wire import (
    BUNDLE_BYTES,
    DIGEST_HEADER,
    PAGE,
    SIGNATURE_HEADER,
    SIZE_HEADER,
    SUMS,
    Publication,
    Published,
    PublishedFile,
)

if TYPE_CHECKING:
    import httpx2

    from adapthub.adapters.artifact import Artifact
    from adapthub.hub.cache import Files
    from adapthub.hub.connection import Connection

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SIGNATURE = re.compile(r"([0-9a-f]{64}):([0-9]{1,9})")
_INLINE_BYTES = 8 * 2**20  # of texts that come with the publication itself
T = TypeVar("T")


class OwnHub:
    """The hub at the other end of `connection`. What it raises, `Registry` says."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def push(self, artifact: Artifact, reference: Reference, *, message: str, alias: str | None) -> Version:
        contents = _read_texts(artifact)
        publication = Publication(
            files={
                path: PublishedFile(sha256=record.sha256, size=record.size, content=contents.get(path))
                for path, record in artifact.files.items()
            }
            | _signature_of(artifact),
            message=message,
            alias=alias,
        )
        published = self._publish(reference, publication)
        if published.version is None:
            publication = self._upload(artifact, reference, publication, published.missing)
            published = self._publish(reference, publication)
        if published.version is None:
            raise StorageError(
                f"the hub did not keep {published.missing[0]}, which was just uploaded", hint="Push again."
            )
        return _checked(published.version)

    def resolve(self, reference: Reference) -> Version:
        return _checked(self._connection.read(Version, _version_path(reference)))

    def pin(self, reference: Reference, held: str | None) -> Pin:
        """One request: a small adapter that is not held comes with its name."""
        where = f"{_version_path(reference)}/bundle"
        headers = {} if held is None else {"if-none-match": f'"{held.removeprefix("sha256:")}"'}
        response = self._connection.ask("GET", where, headers=headers)
        digest, size = response.headers.get(DIGEST_HEADER, ""), response.headers.get(SIZE_HEADER, "")
        if not _DIGEST.fullmatch(digest) or not size.isdigit():
            raise StorageError(f"{self._connection.url} does not say what {reference} is")
        pinned = replace(reference, revision=digest.removeprefix("sha256:"))
        contents = _unbundled(response.content, pinned) if response.status_code == 200 else {}
        return Pin(digest, int(size), pinned, contents=contents, signature=_signature_at(response, pinned))

    def download(self, pin: Pin, parts: Path, watch: Watch) -> Files:
        pinned = pin.reference
        if not pin.contents and pin.size <= BUNDLE_BYTES:  # it was held, and found to be damaged since
            pin = self.pin(pinned, None)
        if pin.contents:
            return iter(pin.contents.items())
        found = self._connection.read(tuple[StoredFile, ...], f"{_version_path(pinned)}/files")
        if digest_of({file.path: file.sha256 for file in found}) != pin.digest:
            raise IntegrityError(f"the files that the hub names are not those of {pinned}")
        where = f"/{_name(pinned)}/resolve/{pinned.revision}"
        wanted = [
            Wanted(file.path, file.size, f"{where}/{quote(file.path)}", sha256=file.sha256) for file in found
        ]
        return download(self._connection, wanted, parts, watch)

    def list(self, namespace: str | None) -> builtins.list[Entry]:
        return _by_name(self._entries({"namespace": namespace}))

    def search(self, text: str | None, **conditions: str | None) -> builtins.list[Entry]:
        found = self._entries({"text": text, **conditions})
        return _by_name(found) if conditions.get("metric") is None else found

    def show(self, reference: Reference) -> Details:
        details = self._connection.read(Details, f"{_version_path(reference)}/details")
        _checked(details.version)
        return details

    def lineage(self, reference: Reference) -> Lineage:
        from adapthub.hub.documents_read import LineageDocument

        where = f"/api/models/{_name(reference)}/lineage"
        revision = {"revision": reference.revision or "latest"}
        return self._connection.read(LineageDocument, where, params=revision).lineage()

    def promote(self, reference: Reference, alias: str) -> Version:
        body = {"revision": reference.revision or "latest"}
        return _checked(self._connection.read(Version, _alias_path(reference, alias), "PUT", json=body))

    def attach_signature(self, reference: Reference, bundle: bytes) -> Version:
        version = self.resolve(reference)
        where = f"/api/models/{_name(reference)}/signature/{version.digest.removeprefix('sha256:')}"
        self._connection.ask("PUT", where, content=bundle)
        return version

    def rollback(self, reference: Reference, alias: str) -> Version:
        return _checked(
            self._connection.read(Version, f"{_alias_path(reference, alias)}/rollback", "POST", once=True)
        )

    def available(self, reference: Reference) -> bool:
        return self._connection.read(bool, f"/api/models/{_name(reference)}/available")

    def check_may_push(self, reference: Reference) -> None:
        self._connection.ask("GET", f"/api/models/{_name(reference)}/may-push")

    def _entries(self, conditions: dict[str, str | None]) -> builtins.list[Entry]:
        """All pages of a list. What is published while they are read may be in none of them."""
        from adapthub.hub.documents_read import EntryDocument

        given = {key: value for key, value in conditions.items() if value is not None}
        where: str | None = f"/api/adapters?{urlencode({**given, 'limit': PAGE})}"
        entries: dict[str, Entry] = {}
        while where is not None:
            response = self._connection.ask("GET", where)
            page = value_of(response, tuple[EntryDocument, ...])
            known = len(entries)
            entries |= {document.name: document.entry() for document in page}
            link = response.links.get("next", {}).get("url")
            where = None if link is None or len(entries) == known else urljoin(str(response.url), link)
        return [*entries.values()]

    def _publish(self, reference: Reference, publication: Publication) -> Published:
        where = f"/api/models/{_name(reference)}/versions"
        body = publication.model_dump_json().encode()
        headers = {"content-type": "application/json"}
        return self._connection.read(Published, where, "POST", content=body, headers=headers)

    def _upload(
        self,
        artifact: Artifact,
        reference: Reference,
        publication: Publication,
        missing: builtins.list[str],
    ) -> Publication:
        """Send what is missing; the publication with receipts for it."""
        receipts: dict[str, str] = {}
        paths = {record.sha256: path for path, record in artifact.files.items()}
        for sha256 in missing:
            if sha256 not in paths:
                raise StorageError(f"the hub asks for {sha256}, which is no file of the adapter")
            where = f"/api/models/{_name(reference)}/blobs"
            receipts[sha256] = send(self._connection, artifact, paths[sha256], where)
        files = {
            path: file.model_copy(update={"receipt": receipts.get(file.sha256)})
            for path, file in publication.files.items()
        }
        return publication.model_copy(update={"files": files})


def _unbundled(data: bytes, pinned: Reference) -> dict[str, bytes]:
    """The files in a bundle, each found to be what the digest says. Raises IntegrityError naming what is not."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as bundle:
            members = {member.name: _member(bundle, member, len(data)) for member in bundle}
    except (tarfile.TarError, EOFError) as error:
        raise IntegrityError(f"what the hub sent for {pinned} is no bundle: {error}") from error
    lines = [line.split("  ", 1) for line in members.pop(SUMS, b"").decode(errors="replace").splitlines()]
    sums = {line[1]: line[0] for line in lines if len(line) == 2}
    if digest_of(sums) != f"sha256:{pinned.revision}" or sums.keys() != members.keys():
        raise IntegrityError(f"the files that the hub sent are not those of {pinned}", hint="Pull again.")
    for name, content in members.items():
        check_bytes(Wanted(name, len(content), "", sha256=sums[name]), content)
    return members


def _member(bundle: tarfile.TarFile, member: tarfile.TarInfo, most: int) -> bytes:
    """A plain file of a bundle of `most` bytes. A sparse one would be as large as it likes. Raises tarfile.TarError."""
    plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and member.sparse is None
    stream = bundle.extractfile(member) if plain and member.size <= most else None
    if stream is None:
        raise tarfile.ReadError(f"{member.name[:80]!r} is no plain file of it")
    return stream.read()


def _signature_of(artifact: Artifact) -> dict[str, PublishedFile]:
    data = artifact.signature
    if data is None:
        return {}
    return {SIGNATURE: PublishedFile(sha256=sha256_bytes(data), size=len(data), content=data)}


def _signature_at(response: httpx2.Response, pinned: Reference) -> Wanted | None:
    """The model.sig that an answer names, in a commit, which never changes. Raises StorageError for no such name."""
    named = response.headers.get(SIGNATURE_HEADER)
    if named is None:
        return None
    found, commit = _SIGNATURE.fullmatch(named), response.headers.get("X-Repo-Commit", "")
    if found is None or not _COMMIT.fullmatch(commit) or int(found[2]) > MAX_BYTES[SIGNATURE]:
        raise StorageError(f"the hub says that {named[:80]!r} is the signature of {pinned}")
    where = f"/{_name(pinned)}/resolve/{commit}/{SIGNATURE}"
    return Wanted(SIGNATURE, int(found[2]), where, sha256=found[1])


def _checked(version: Version) -> Version:
    """`version`, if what is made a path of it is what it says. A hub may be anybody's."""
    Reference.parse(version.name)
    if not _DIGEST.fullmatch(version.digest):
        raise StorageError(
            f"the hub says that {version.digest[:80]!r} is a digest", hint="Check its address."
        )
    return version


def _read_texts(artifact: Artifact) -> dict[str, bytes]:
    """The bytes of the small text files, which come along. Raises IntegrityError where one is not what was read."""
    texts: dict[str, bytes] = {}
    room = _INLINE_BYTES
    for path, record in artifact.files.items():
        if record.size > room or not is_text(path, record.size, b""):  # whatever it begins with
            continue
        data = read_file(artifact, path)
        if is_text(path, record.size, data):
            texts[path] = data
            room -= record.size
    return texts


def _by_name(entries: builtins.list[Entry]) -> builtins.list[Entry]:
    return sorted(entries, key=lambda entry: entry.name.split("/"))


def _name(reference: Reference) -> str:
    return f"{quote(reference.namespace, safe='')}/{quote(reference.name, safe='')}"


def _version_path(reference: Reference) -> str:
    return f"/api/models/{_name(reference)}/versions/{quote(reference.revision or 'latest', safe='')}"


def _alias_path(reference: Reference, alias: str) -> str:
    return f"/api/models/{_name(reference)}/aliases/{quote(alias, safe='')}"
