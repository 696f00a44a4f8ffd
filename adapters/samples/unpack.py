"""Unpack chosen members of a wheel, a gzipped tar or a Debian package into a folder.

Only regular files whose path stays inside the folder, and no more than `MAX_BYTES` of them. Does not verify
digests: the caller does, before it unpacks. Nothing inside an archive is ever run.
"""

from __future__ import annotations

import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO

from adapthub.adapters.errors import AdmissionError, MissingDependency

MAX_BYTES = 2 << 30
_CHUNK = 1 << 20


def unpack(archive: Path, target: Path, keep: tuple[str, ...]) -> None:
    """Write the members of `archive` that match a pattern of `keep` under `target`.

    Raises AdmissionError for a member that is a link or leaves the folder, for a pattern that matches
    nothing, for too many bytes, and for a damaged archive.
    """
    found: set[str] = set()
    room = MAX_BYTES
    try:
        for name, stream in _members(archive):
            matching = [pattern for pattern in keep if fnmatchcase(name, pattern)]
            if not matching:
                continue
            if stream is None:
                raise AdmissionError(f"{archive.name}: {name} is a link or a device, not a file")
            found.update(matching)
            room -= _write(stream, _inside(target, name, archive.name), room, archive.name)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise AdmissionError(f"{archive.name} is not a readable archive: {error}") from error
    missing = [pattern for pattern in keep if pattern not in found]
    if missing:
        raise AdmissionError(f"{archive.name} holds no file like {missing[0]!r}")


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Each member's normal path and its bytes; None instead of bytes for whatever is not a regular file."""
    if archive.suffix in {".whl", ".zip"}:
        yield from _zip_members(archive)
    elif archive.suffix == ".deb":
        yield from _debian_members(archive)
    else:
        with tarfile.open(archive, "r:*") as tar:
            yield from _tar_members(tar)


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    with zipfile.ZipFile(archive) as bundle:
        for info in bundle.infolist():
            if info.is_dir():
                continue
            kind = info.external_attr >> 28  # the file type bits of a Unix mode; 0 where none was recorded
            with bundle.open(info) as stream:
                yield _normal(info.filename), stream if kind in {0, 0o10} else None


def _tar_members(tar: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes] | None]]:
    for info in tar:
        if info.isdir():
            continue
        yield _normal(info.name), tar.extractfile(info) if info.isreg() else None


def _debian_members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    try:
        process = subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except FileNotFoundError:
        raise MissingDependency(
            "dpkg-deb is not installed", hint="This sample needs a Debian or Ubuntu system."
        ) from None
    with process, tarfile.open(fileobj=process.stdout, mode="r|") as tar:
        yield from _tar_members(tar)


def _normal(name: str) -> str:
    return name.removeprefix("./")


def _inside(target: Path, name: str, archive: str) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name:
        raise AdmissionError(f"{archive}: the path {name!r} leaves the folder")
    return target / path


def _write(stream: IO[bytes], path: Path, room: int, archive: str) -> int:
    """Copy at most `room` bytes; the number copied. Counts real bytes: an archive's own sizes may lie."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with path.open("wb") as out:
        while chunk := stream.read(_CHUNK):
            written += len(chunk)
            if written > room:
                raise AdmissionError(f"{archive} unpacks to more than {MAX_BYTES >> 20} MiB")
            out.write(chunk)
    return written
