"""Files of an adapter to a hub of ours: whole, or a large one in parts, of which a push that goes on sends what is missing.

Reads the files while it sends them. Publishes nothing: the receipts are for that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from adapthub.adapters.description import FileRecord
from adapthub.adapters.errors import IntegrityError, StorageError
from adapthub.hub.file_body import FileBody
from adapthub.hub.speaker import read_file
from adapthub.hub.wire import PART_BYTES, Assembled, Kept, Part, Parts

if TYPE_CHECKING:
    from adapthub.adapters.artifact import Artifact
    from adapthub.hub.connection import Connection

_ASSEMBLY_SECONDS = 900.0  # the hub reads, hashes and writes up to 8 GiB


def send(connection: Connection, artifact: Artifact, path: str, where: str) -> str:
    """Upload a file of `artifact` to the blobs at `where`; its receipt. Raises IntegrityError where it is not what was read
    any more."""
    record = artifact.files[path]
    try:
        if record.size > 2 * PART_BYTES:
            return _send_in_parts(connection, artifact.path / path, record, where)
        body = FileBody(artifact.path / path, record.size)
        return _put(connection, f"{where}/{record.sha256}", body)
    except IntegrityError:
        read_file(
            artifact, path
        )  # the hub hashes it: here that is only done to say which side has other bytes
        raise


def _send_in_parts(connection: Connection, path: Path, record: FileRecord, where: str) -> str:
    parts = [*_parts(path, record.size)]
    answer = _assemble(connection, f"{where}/{record.sha256}", parts)
    if answer.receipt is None:
        begin, missing = 0, {*answer.missing}
        for part in parts:
            if part.sha256 in missing:
                _put(connection, f"{where}/{part.sha256}", FileBody(path, part.size, begin=begin))
                missing.remove(part.sha256)
            begin += part.size
        answer = _assemble(connection, f"{where}/{record.sha256}", parts)
    if answer.receipt is None:
        raise StorageError(
            f"the hub did not keep parts of {path.name}, which were just uploaded", hint="Push again."
        )
    return answer.receipt


def _assemble(connection: Connection, where: str, parts: list[Part]) -> Assembled:
    body = Parts(parts=parts).model_dump()
    return connection.read(Assembled, where, "POST", json=body, timeout=_ASSEMBLY_SECONDS)


def _put(connection: Connection, where: str, body: FileBody) -> str:
    return connection.read(Kept, where, "PUT", content=body, headers=body.headers).receipt


def _parts(path: Path, size: int) -> Iterator[Part]:
    try:
        with path.open("rb") as stream:
            while size:
                data = stream.read(min(size, PART_BYTES))
                if not data:
                    raise IntegrityError(f"{path} lacks {size} bytes at its end")
                size -= len(data)
                yield Part(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    except OSError as error:
        raise IntegrityError(f"{path} can no longer be read: {error.strerror or error}") from error
