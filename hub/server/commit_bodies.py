"""The body of a commit: a JSON document a line, its header, then its changes. Texts are kept as they are read: one of them
is in memory at a time, and of large ones one in the whole server. Does not commit.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from threading import Lock
from typing import IO, Any

from pydantic import BaseModel, ValidationError

from adapthub.adapters.errors import InvalidSettings
from adapthub.hub.paths import check_path
from adapthub.hub.server.receiving import LARGE_BYTES
from adapthub.hub.trees import Blob, Delete, Put

_MOST_CHANGES = 10_000


class Header(BaseModel):
    """What a commit says of itself."""

    summary: str
    description: str = ""
    parentCommit: str | None = None


class TextFile(BaseModel):
    """A file that came with its commit."""

    path: str
    content: str
    encoding: str = "base64"


class LfsFile(BaseModel):
    """A file that was uploaded before."""

    path: str
    oid: str
    algo: str = "sha256"
    size: int | None = None


class Gone(BaseModel):
    """A file or folder to delete."""

    path: str


@dataclass(frozen=True)
class Body:
    """A commit as it was sent: texts are `Put`, files that were uploaded before are yet to be found."""

    header: Header
    changes: list[Put | Delete | LfsFile]


def read_commit(stream: IO[bytes], keep: Callable[[str, bytes], Blob], large: Lock) -> Body:
    """Read a commit, and `keep` each text, of a path and bytes; `large` is held from before a large one is read until it is
    kept. Raises InvalidSettings, naming the line, for what is no commit; AdmissionError for a path that none may have."""
    with closing(_documents(stream, large)) as documents:
        return _read(documents, keep)


def _read(documents: Iterator[tuple[str, Any]], keep: Callable[[str, bytes], Blob]) -> Body:
    header: Header | None = None
    changes: list[Put | Delete | LfsFile] = []
    for key, value in documents:
        try:
            if key == "header":
                header = Header.model_validate(value)
            else:
                changes.append(_change(key, value, keep))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise InvalidSettings(f"a line {key!r} of the commit: {where}: {first['msg']}") from error
        if len(changes) > _MOST_CHANGES:
            raise InvalidSettings(f"the commit has more than {_MOST_CHANGES} changes")
    if header is None:
        raise InvalidSettings("the commit has no line of the key 'header'")
    return Body(header, changes)


def _documents(stream: IO[bytes], large: Lock) -> Generator[tuple[str, Any]]:
    """The key and the value of each line."""
    number = 0
    while start := stream.readline(LARGE_BYTES):
        number += 1
        if start.endswith(b"\n") or len(start) < LARGE_BYTES:
            if start.strip():
                yield _document(number, start)
            continue
        with large:
            stream.seek(-len(start), os.SEEK_CUR)
            yield _document(number, stream.readline())


def _document(number: int, line: bytes) -> tuple[str, Any]:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidSettings(f"line {number} of the commit is not JSON") from error
    if not isinstance(document, dict) or not isinstance(document.get("key"), str):
        raise InvalidSettings(f"line {number} of the commit is not an object with a key and a value")
    return document["key"], document.get("value")


def _change(key: str, value: Any, keep: Callable[[str, bytes], Blob]) -> Put | Delete | LfsFile:
    match key:
        case "file":
            file = TextFile.model_validate(value)
            check_path(file.path)
            return Put(file.path, keep(file.path, _decoded(file)))
        case "lfsFile":
            return LfsFile.model_validate(value)
        case "deletedFile" | "deletedFolder":
            path = Gone.model_validate(value).path.strip("/")
            return Delete(path, folder=key == "deletedFolder")
        case _:
            raise InvalidSettings(f"a commit has no lines of the key {key[:80]!r}")


def _decoded(file: TextFile) -> bytes:
    if file.encoding != "base64":
        return file.content.encode(errors="replace")
    try:
        return base64.b64decode(file.content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidSettings(f"the content of {file.path} is not base64") from error
