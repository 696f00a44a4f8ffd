"""A whole version in one answer: an uncompressed tar whose first member, SHA256SUMS, has the sha256 of every other.

The sha256 of that member's sorted lines is the version's digest, so whoever knows the digest can verify each file as it
comes; `sha256sum -c SHA256SUMS` does so too. Never compressed: weights do not shrink.
"""

from __future__ import annotations

import tarfile
from collections.abc import AsyncIterator

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from adapthub.adapters.description import sums_of
from adapthub.hub.access import Caller, check_gate
from adapthub.hub.records import files_of
from adapthub.hub.reference import Reference
from adapthub.hub.registry import StoredFile
from adapthub.hub.server.dependencies import Revision, Target, TheCaller, TheServing
from adapthub.hub.server.registry_api import readable_version
from adapthub.hub.server.serving import Serving
from adapthub.hub.wire import SUMS

router = APIRouter(tags=["files"])

_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)


@router.get("/api/models/{namespace}/{name}/versions/{revision}/bundle")
def bundle(target: Target, revision: Revision, serving: TheServing, caller: TheCaller) -> StreamingResponse:
    """The files of the version that a revision means now."""
    files, commit = _find(serving, caller, target, revision)
    sums = sums_of({file.path: file.sha256 for file in files}).encode()
    length = len(_head(SUMS, len(sums)) + _padded(sums)) + len(_END)
    length += sum(len(_head(file.path, file.size)) + file.size + -file.size % _BLOCK for file in files)
    headers = {
        "Content-Length": str(length),
        "X-Repo-Commit": commit,
        "Content-Disposition": f'attachment; filename="{target.name}.tar"',
    }
    return StreamingResponse(_pieces(serving, sums, files), 200, headers, media_type="application/x-tar")


def _find(
    serving: Serving, caller: Caller, target: Reference, revision: str
) -> tuple[tuple[StoredFile, ...], str]:
    with serving.store.database.reading() as session:
        row = readable_version(session, caller, target, revision)
        check_gate(session, caller, row.repo)
        return files_of(row), row.commit.oid


async def _pieces(serving: Serving, sums: bytes, files: tuple[StoredFile, ...]) -> AsyncIterator[bytes]:
    yield _head(SUMS, len(sums)) + _padded(sums)
    for file in files:
        yield _head(file.path, file.size)
        async for piece in await serving.store.blobs.stream(file.sha256, 0, file.size):
            yield piece
        yield bytes(-file.size % _BLOCK)
    yield _END


def _head(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _BLOCK)
