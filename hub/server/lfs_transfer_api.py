"""The bytes of LFS files, uploaded whole or in parts, and downloaded. Clients send no token with them: addresses are signed.

A part is a blob that the repository was sent, so it counts for the quota; it is answered with a receipt, its ETag, which
proves that its sender had the bytes. The completion brings the receipts; what they are for is put together, stored under the
file's own sha256, and takes the place of its parts. Nothing else is kept of an upload, so that any server of the hub goes on
with it. An address takes its part again: after a failure, or with other bytes, and then the receipt of those before is good
no more. Parts that were never completed are garbage (collecting).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from adapthub.adapters.errors import InvalidSettings
from adapthub.hub import uploads
from adapthub.hub.collecting import discard
from adapthub.hub.lookup import require_repo
from adapthub.hub.reference import Reference
from adapthub.hub.server import lfs_urls
from adapthub.hub.server.dependencies import Target, TheServing
from adapthub.hub.server.receiving import keep_body
from adapthub.hub.server.said import Said
from adapthub.hub.server.serving import Serving
from adapthub.hub.storage.blobs import BlobLost
from adapthub.hub.trees import Blob

router = APIRouter(prefix="/{namespace}/{name}.git/info/lfs/objects", tags=["uploads"])

_MOST_PARTS = 10_000
Sha256 = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]


class Part(Said):
    """A part that was uploaded: its number from 1, and the ETag that it was answered with."""

    partNumber: int
    etag: str


class Completion(Said):
    """All parts of the file `oid`."""

    oid: str
    parts: list[Part] = Field(max_length=_MOST_PARTS)


@router.put("/{oid}")
async def upload(target: Target, oid: Sha256, request: Request, serving: TheServing) -> Response:
    """All bytes of one file."""
    size, holder = lfs_urls.check(serving.signer, lfs_urls.UPLOAD, target, oid, request.query_params)
    await run_in_threadpool(uploads.expect, serving.store, target, Blob(oid, size), holder)
    await keep_body(request, serving.store.blobs, size, sha256=oid)
    await run_in_threadpool(uploads.received, serving.store, target, [Blob(oid, size)], token=holder)
    return Response()


@router.put("/{oid}/{number}")
async def upload_part(
    target: Target, oid: Sha256, number: int, request: Request, serving: TheServing
) -> Response:
    """The bytes of one part; the same part may come again, and what comes last is it."""
    name = f"{oid}/{number}"
    size, holder = lfs_urls.check(serving.signer, lfs_urls.PART, target, name, request.query_params)
    await run_in_threadpool(uploads.expect_part, serving.store, target, size, holder, name)
    sha256 = await keep_body(request, serving.store.blobs, size, origin="the part")
    await run_in_threadpool(_received_part, serving, target, Blob(sha256, size), holder, name)
    receipt = lfs_urls.receipt(serving.signer, target, name, sha256, size)
    return Response(headers={"ETag": f'"{receipt}"'})


@router.post("/{oid}")
async def complete(
    target: Target, oid: Sha256, body: Completion, request: Request, serving: TheServing
) -> Response:
    """Put the parts together; nothing, where that was done and the answer was lost."""
    size, holder = lfs_urls.check(serving.signer, lfs_urls.COMPLETION, target, oid, request.query_params)
    whole = Blob(oid, size)
    await run_sync(_complete, serving, target, whole, holder, body, limiter=serving.large_files)
    return Response()


def _complete(serving: Serving, target: Reference, whole: Blob, holder: str | None, body: Completion) -> None:
    oid, size = whole.sha256, whole.size
    parts = _parts(serving, target, oid, body.parts)
    if _is_done(serving, target, whole):
        return
    try:
        _check_kept(serving, target, parts)
        total = sum(part.size for part in parts)
        if total != size:
            raise InvalidSettings(
                f"the parts have {total} bytes, and the file has {size}", hint="Upload it again."
            )
        with serving.store.blobs.incoming() as incoming:
            for part in parts:
                for piece in serving.store.blobs.pieces(part.sha256):
                    incoming.write(piece)
            incoming.keep(oid, origin="the upload")
    except (InvalidSettings, BlobLost):
        if _is_done(serving, target, whole):  # by another completion, which took the parts away
            return
        raise
    now = datetime.now(UTC)
    replaced = uploads.received(serving.store, target, [whole], token=holder, parts_of=oid)
    discard(serving.store, replaced, before=now)


@router.get("/{oid}")
async def download(target: Target, oid: Sha256, request: Request, serving: TheServing) -> Response:
    """All bytes of one file."""
    size, _ = lfs_urls.check(serving.signer, lfs_urls.DOWNLOAD, target, oid, request.query_params)
    found = await serving.store.blobs.stream(oid, 0, size)
    return StreamingResponse(
        found, headers={"Content-Length": str(size), "Content-Type": "application/octet-stream"}
    )


def _received_part(serving: Serving, target: Reference, blob: Blob, holder: str | None, name: str) -> None:
    now = datetime.now(UTC)
    replaced = uploads.received(serving.store, target, [blob], token=holder, part=name)
    discard(serving.store, replaced, before=now)


def _is_done(serving: Serving, target: Reference, blob: Blob) -> bool:
    with serving.store.database.reading() as session:
        known = uploads.held(session, require_repo(session, target), [blob.sha256])
    return blob.sha256 in known and serving.store.blobs.size(blob.sha256) == blob.size


def _check_kept(serving: Serving, target: Reference, parts: Sequence[Blob]) -> None:
    with serving.store.database.reading() as session:
        repo = require_repo(session, target)
        kept = uploads.held(session, repo, {part.sha256 for part in parts}, parts=True)
    for number, part in enumerate(parts, start=1):
        if part.sha256 not in kept:
            raise InvalidSettings(
                f"part {number} is not kept: another came in its place, or it came too long ago",
                hint="Upload it again.",
            )


def _parts(serving: Serving, target: Reference, oid: str, parts: Sequence[Part]) -> list[Blob]:
    """What the receipts are for, in order. Raises InvalidSettings where one lacks, Forbidden for one of another file."""
    ordered = sorted(parts, key=lambda part: part.partNumber)
    if [part.partNumber for part in ordered] != list(range(1, len(ordered) + 1)):
        raise InvalidSettings("the parts are not numbered from 1 on, each once")
    receipts = [
        lfs_urls.read_receipt(serving.signer, target, f"{oid}/{part.partNumber}", part.etag)
        for part in ordered
    ]
    return [Blob(sha256, size) for sha256, size in receipts]
