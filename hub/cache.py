"""Pulled adapters, each a plain PEFT folder named by its digest, whichever hub it came from.

    cache/<64 hex digits>/      an adapter's files, whole from the moment that the folder has this name
    cache/<64 hex digits>.lock  one process fetches, others wait and read what it fetched
    cache/parts/<64 hex>/       what came of it before its hub was cut off, for the next pull to go on from

Every read verifies every byte: an entry that someone edited is replaced, never used, and so is one that a power cut tore,
which is why nothing is synced to the disk. Nothing is ever evicted.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from adapthub.adapters.admission import SIGNATURE, check_name, read_signature
from adapthub.adapters.artifact import Artifact
from adapthub.adapters.errors import (
    AdaptHubError,
    ArtifactError,
    IntegrityError,
)
from adapthub.adapters.files import new_directory, write_bytes
from adapthub.adapters.home import make_folder, unusable

PARTS = "parts"

Files = Iterator[tuple[str, bytes | Path]]
"""The files of an adapter: each name and its verified bytes, or the path of a file with them that the cache may take."""


class Cache:
    """A folder of adapters by digest. Holds nothing in memory, so processes and threads may share it."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, digest: str) -> Artifact | None:
        """The artifact "sha256:<hex>" if it is here and whole."""
        return _read(self._root / digest.removeprefix("sha256:"), digest)[0]

    def holds(self, digest: str) -> bool:
        """Whether something is here for "sha256:<hex>"; `pull` finds out whether it is whole."""
        return (self._root / digest.removeprefix("sha256:")).is_dir()

    def signature(self, digest: str) -> bytes | None:
        """The model.sig that lies beside "sha256:<hex>" here, verified by nobody."""
        return read_signature(self._root / digest.removeprefix("sha256:"))

    def parts(self, digest: str) -> Path:
        """A folder for what comes of "sha256:<hex>" piece by piece; only who fetches it uses it. It need not exist."""
        return self._root / PARTS / digest.removeprefix("sha256:")

    def pull(self, digest: str, fetch: Callable[[], Files], signature: bytes | None = None) -> Artifact:
        """The artifact "sha256:<hex>", from here if it is whole, else from `fetch`, which brings its files. `signature`: its
        model.sig as its hub has it now, which takes the place of what lies here.

        Raises what `fetch` raises; IntegrityError, naming the file, if what is here is damaged and cannot be
        fetched again, or if what was fetched is not `digest`; StorageError where the disk refuses. Leaves
        nothing half-made.
        """
        folder = self._root / digest.removeprefix("sha256:")
        artifact, _ = _read(folder, digest)
        artifact = artifact or self._fill(folder, digest, fetch)
        if signature in (None, artifact.signature):
            return artifact
        write_bytes(folder / SIGNATURE, signature)
        return dataclasses.replace(artifact, signature=signature)

    def _fill(self, folder: Path, digest: str, fetch: Callable[[], Files]) -> Artifact:
        with self._alone(folder):
            artifact, damage = _read(folder, digest)  # another process may have fetched it meanwhile
            if artifact is not None:
                return artifact
            for abandoned in self._root.glob(f".{folder.name}.*"):  # by a process killed while it fetched
                shutil.rmtree(abandoned, ignore_errors=True)
            try:
                artifact = _fetch(folder, digest, fetch)
                shutil.rmtree(self.parts(digest), ignore_errors=True)
                return artifact
            except AdaptHubError as error:
                if damage is None:
                    raise
                raise IntegrityError(
                    f"a cached adapter is damaged ({_damaged_file(folder) or damage.message}) "
                    f"and cannot be fetched again ({error.message})",
                    hint=error.hint,
                ) from error

    def _alone(self, folder: Path) -> AbstractContextManager[object]:
        from filelock import FileLock

        try:
            make_folder(self._root)
            return FileLock(folder.with_suffix(".lock")).acquire()
        except OSError as error:
            raise unusable(self._root, error) from error


def _fetch(folder: Path, digest: str, fetch: Callable[[], Files]) -> Artifact:
    with new_directory(folder, replace=True, durable=False) as aside:
        for name, data in fetch():
            check_name(name)
            if isinstance(data, Path):
                data.replace(aside / name)
            else:
                (aside / name).write_bytes(data)
        artifact = Artifact.read(aside, expected_digest=digest)
    return dataclasses.replace(artifact, path=folder)


def _read(folder: Path, digest: str) -> tuple[Artifact | None, ArtifactError | None]:
    """The artifact in `folder`, or what is wrong with it; (None, None) where nothing is."""
    if not folder.is_dir():
        return None, None
    try:
        return Artifact.read(folder, expected_digest=digest), None
    except ArtifactError as error:
        return None, error


def _damaged_file(folder: Path) -> str | None:
    """What the folder's own manifest says is wrong with it: unlike a digest of the whole, that names the
    file."""
    try:
        Artifact.read(folder)
    except ArtifactError as error:
        return error.message
    return None
