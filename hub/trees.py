"""The files of a commit: what a tree is, what it lists, and how changes make another one of it.

A tree is the map from each path to its blob. Paths are checked where changes come in (paths). Stores nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from adapthub.adapters.errors import EntryNotFound
from adapthub.adapters.suggest import did_you_mean
from adapthub.hub.storage.tables import BlobRow, FileRow


@dataclass(frozen=True, slots=True)
class Blob:
    """A file's bytes, which the blob store has: hex sha256, size in bytes, and git's id of them (hex sha1) where they came
    with a commit.

    Those without one came by LFS: for git and its clients such a file is a pointer.
    """

    sha256: str
    size: int
    sha1: str | None = None

    @property
    def is_lfs(self) -> bool:
        """Whether clients see it as a file of LFS."""
        return self.sha1 is None

    @property
    def pointer(self) -> bytes:
        """What git holds in place of an LFS file."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    @property
    def oid(self) -> str:
        """Git's id of the file, or of its pointer."""
        return self.sha1 or git_oid(self.pointer)

    @property
    def etag(self) -> str:
        """What the file is cached under: as the Hugging Face Hub does, sha256 where it is of LFS, else git's id."""
        return self.sha256 if self.is_lfs else self.oid


Tree = Mapping[str, Blob]


@dataclass(frozen=True, slots=True)
class Put:
    """A file that is new or has other bytes."""

    path: str
    blob: Blob


@dataclass(frozen=True, slots=True)
class Delete:
    """A file, or with `folder` everything below it, that goes."""

    path: str
    folder: bool = False


Change = Put | Delete


def git_oid(data: bytes) -> str:
    """Git's id of a blob of these bytes: 40 hex digits."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def read_tree(session: Session, commit_id: int) -> dict[str, Blob]:
    """The files of a commit by path, in order."""
    return read_trees(session, [commit_id])[commit_id]


def read_trees(session: Session, commit_ids: Collection[int]) -> dict[int, dict[str, Blob]]:
    """The files of several commits: each as `read_tree` has it."""
    rows = session.execute(
        select(FileRow.commit_id, FileRow.path, BlobRow.sha256, BlobRow.size, FileRow.sha1)
        .join(BlobRow, BlobRow.id == FileRow.blob_id)
        .where(FileRow.commit_id.in_(commit_ids))
        .order_by(FileRow.commit_id, FileRow.path)
    )
    trees: dict[int, dict[str, Blob]] = {key: {} for key in commit_ids}
    for key, path, sha256, size, sha1 in rows:
        trees[key][path] = Blob(sha256, size, sha1)
    return trees


def find_file(session: Session, commit_id: int, path: str) -> Blob | None:
    """One file of a commit, or None."""
    row = session.execute(
        select(BlobRow.sha256, BlobRow.size, FileRow.sha1)
        .join(FileRow, BlobRow.id == FileRow.blob_id)
        .where(FileRow.commit_id == commit_id, FileRow.path == path)
    ).one_or_none()
    return None if row is None else Blob(*row)


def changed(tree: Tree, changes: Iterable[Change]) -> dict[str, Blob]:
    """`tree` after `changes`, one after another. Raises EntryNotFound for a file to delete that is not there."""
    files = dict(tree)
    for change in changes:
        match change:
            case Put(path, blob):
                files[path] = blob
            case Delete(path, folder=False):
                if path not in files:
                    raise EntryNotFound(f"there is no file {path} to delete", hint=did_you_mean(path, files))
                del files[path]
            case Delete(path):
                below = [name for name in files if is_below(name, path)]
                if not below:
                    raise EntryNotFound(
                        f"there is no folder {path} to delete", hint=did_you_mean(path, files)
                    )
                for name in below:
                    del files[name]
    return files


def is_below(path: str, folder: str) -> bool:
    """Whether `path` is in `folder` or a folder of it; everything is below ""."""
    return not folder or path.startswith(f"{folder}/")


def folders_of(paths: Iterable[str]) -> set[str]:
    """Every folder that `paths` are in."""
    found: set[str] = set()
    for path in paths:
        folder = path.rpartition("/")[0]
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return found
