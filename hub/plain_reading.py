"""What a hub that speaks the Hugging Face protocol alone holds: commits, trees, the adapter in a tree, the history of main.

Everything about a commit is asked for by its 40 hex digits and never changes, so it is kept in memory. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin

from adapthub.adapters.admission import (
    CONFIG,
    IGNORED,
    MAX_FILES,
    SIGNATURE,
    WEIGHTS,
    check_name,
)
from adapthub.adapters.description import FileRecord, digest_of
from adapthub.adapters.errors import AdmissionError, RevisionNotFound
from adapthub.adapters.files import sha256_bytes
from adapthub.hub.connection import T, value_of
from adapthub.hub.downloading import Wanted, check_bytes
from adapthub.hub.plain_documents import CommitDocument, InfoDocument, RefsDocument, TreeDocument
from adapthub.hub.reference import Reference

if TYPE_CHECKING:
    from adapthub.hub.connection import Connection

_MOST_PAGES = 100
_AT_ONCE = 8


@dataclass(frozen=True)
class Commit:
    """A commit of a repository. `created` is in UTC."""

    oid: str
    message: str
    created: datetime


@dataclass(frozen=True)
class Stored:
    """The adapter in a commit's tree: the files at its root that an adapter may have, by path; and the model.sig beside
    them, which is no part of it."""

    files: Mapping[str, Wanted]
    signature: Wanted | None = None

    @property
    def paths(self) -> set[str]:
        """The paths of all that is stored, the signature too."""
        return {*self.files, *([] if self.signature is None else [SIGNATURE])}

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    @cached_property
    def identity(self) -> tuple[tuple[str, str], ...]:
        """Equal where every byte is: what the hub itself calls the contents of each path."""
        return tuple((path, file.sha256 or file.git_oid or "") for path, file in sorted(self.files.items()))


class PlainReading:
    """The repositories of the hub at the other end of `connection`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._adapters: dict[tuple[str, str], Stored | None] = {}
        self._texts: dict[str, bytes] = {}

    def info(self, reference: Reference, revision: str | None = None) -> InfoDocument:
        """A repository at a revision. Raises AdapterNotFound, RevisionNotFound."""
        where = f"/api/models/{reference.full_name}"
        if revision is not None:
            where += f"/revision/{quote(revision, safe='')}"
        return self._connection.read(InfoDocument, where)

    def adapter(self, reference: Reference, commit: str) -> Stored | None:
        """The adapter in a commit, None where there is no whole one."""
        key = (reference.full_name, commit)
        if key not in self._adapters:
            where = f"/api/models/{reference.full_name}/tree/{commit}?recursive=false"
            root = f"/{reference.full_name}/resolve/{commit}"
            self._adapters[key] = _adapter_of([*self.pages(TreeDocument, where)], root)
        return self._adapters[key]

    def require_adapter(self, reference: Reference, commit: str) -> Stored:
        """The adapter in a commit. Raises AdmissionError where there is none."""
        stored = self.adapter(reference, commit)
        if stored is None:
            raise AdmissionError(
                f"{reference} at {commit[:10]} is no adapter: it has no {CONFIG} and {WEIGHTS}",
                hint="Name a repository that PEFT's push_to_hub wrote, with safetensors.",
            )
        return stored

    def digest(self, stored: Stored) -> str:
        """The adapter's digest."""
        return digest_of({path: file.sha256 for path, file in self.records(stored).items()})

    def records(self, stored: Stored) -> dict[str, FileRecord]:
        """The sha256 and the size of each file. The hub knows no sha256 of small ones, so they are read for it."""
        texts = self.texts(stored)
        return {
            path: FileRecord(file.sha256 or sha256_bytes(texts[path]), file.size)
            for path, file in stored.files.items()
        }

    def texts(self, stored: Stored) -> dict[str, bytes]:
        """The verified bytes of the files whose sha256 the hub does not know."""
        wanted = {path: file for path, file in stored.files.items() if file.sha256 is None}
        unread = {file.git_oid: file for file in wanted.values() if file.git_oid not in self._texts}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for file, data in zip(unread.values(), pool.map(self._read_text, unread.values()), strict=True):
                self._texts[str(file.git_oid)] = data
        return {path: self._texts[str(file.git_oid)] for path, file in wanted.items()}

    def history(self, reference: Reference) -> list[Commit]:
        """The commits of main, oldest first."""
        items = self.pages(CommitDocument, f"/api/models/{reference.full_name}/commits/main")
        return [_commit_of(item) for item in items][::-1]

    def versions(self, reference: Reference) -> list[tuple[Commit, Stored]]:
        """The versions of a name, oldest first: the commits of main that made a whole adapter which was not there before."""
        commits = self.history(reference)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = pool.map(lambda commit: self._admitted(reference, commit.oid), commits)
            known: dict[object, tuple[Commit, Stored]] = {}
            for commit, stored in zip(commits, found, strict=True):
                if stored is not None:
                    known.setdefault(stored.identity, (commit, stored))
        return [*known.values()]

    def _admitted(self, reference: Reference, commit: str) -> Stored | None:
        """The adapter in a commit of old, if there is one that is admitted here."""
        try:
            return self.adapter(reference, commit)
        except AdmissionError:
            return None

    def commit(self, reference: Reference) -> str:
        """The commit that `reference` means now: a commit or the beginning of one, a branch, a tag, or `vN`."""
        if reference.number is not None:
            versions = self.versions(reference)
            if reference.number > len(versions):
                raise RevisionNotFound(
                    f"{reference.full_name} has no revision {reference.revision}",
                    hint=f"The newest version is v{len(versions)}.",
                )
            return versions[reference.number - 1][0].oid
        if reference.commit is not None and len(reference.commit) == 64:
            return self._commit_of_digest(reference)
        revision = None if reference.revision in (None, "latest") else reference.revision
        return self.info(reference, revision).sha

    def refs(self, reference: Reference) -> dict[str, str]:
        """The commit of each branch but main, and of each tag."""
        found = self._connection.read(RefsDocument, f"/api/models/{reference.full_name}/refs")
        return {ref.name: ref.targetCommit for ref in [*found.branches, *found.tags] if ref.name != "main"}

    def pages(self, kind: type[T], where: str) -> Iterator[T]:
        """The entries of a list, page after page. A next page of another origin is asked for without the token."""
        for _ in range(_MOST_PAGES):
            response = self._connection.ask("GET", where)
            yield from value_of(response, list[kind])  # type: ignore[valid-type]
            link = response.links.get("next", {}).get("url")
            if link is None:
                return
            where = urljoin(str(response.url), link)

    def _commit_of_digest(self, reference: Reference) -> str:
        for commit, stored in reversed(self.versions(reference)):
            if self.digest(stored) == f"sha256:{reference.commit}":
                return commit.oid
        raise RevisionNotFound(f"{reference.full_name} has no version {str(reference.commit)[:19]}")

    def _read_text(self, file: Wanted) -> bytes:
        data = self._connection.ask("GET", file.where).content
        check_bytes(file, data)
        return data


def _adapter_of(items: Sequence[TreeDocument], root: str) -> Stored | None:
    files = {}
    for item in items:
        path, lfs = item.path, item.lfs
        if item.type == "file" and (path == SIGNATURE or _is_admitted(path)):
            files[path] = Wanted(
                path,
                item.size if lfs is None else lfs.size,
                f"{root}/{quote(path)}",
                sha256=None if lfs is None else lfs.oid.removeprefix("sha256:"),
                git_oid=item.oid if lfs is None else None,
            )
    signature = files.pop(SIGNATURE, None)
    if CONFIG not in files or WEIGHTS not in files or len(files) > MAX_FILES:
        return None
    return Stored(files, signature)


def _is_admitted(path: str) -> bool:
    """Whether an adapter may have this file; what training left beside it is not brought."""
    try:
        check_name(path)
    except AdmissionError:
        return False
    return path not in IGNORED


def _commit_of(item: CommitDocument) -> Commit:
    title, rest = item.title or "", item.message or ""
    return Commit(item.id, f"{title}\n\n{rest}" if rest else title, item.date.astimezone(UTC))
