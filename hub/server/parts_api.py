"""A large file that our own client sends in parts: which of them the hub lacks, or the file put together.

A part comes as any file does that is about to be published (publish_api), and waits as long: a push that was cut off goes on
with what is missing. The whole takes the place of its parts, and their room.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from anyio.to_thread import run_sync
from fastapi import APIRouter

from adapthub.adapters.admission import MAX_BYTES, WEIGHTS
from adapthub.hub import quotas, uploads
from adapthub.hub.access import Caller
from adapthub.hub.collecting import discard
from adapthub.hub.lookup import find_repo
from adapthub.hub.reference import Reference
from adapthub.hub.server.dependencies import Target, TheCaller, TheServing
from adapthub.hub.server.lfs_transfer_api import Sha256
from adapthub.hub.server.lfs_urls import receipt
from adapthub.hub.server.publish_api import check_may
from adapthub.hub.server.serving import Serving
from adapthub.hub.storage.blobs import BlobLost
from adapthub.hub.trees import Blob
from adapthub.hub.wire import Assembled, Parts
from adapthub.web.bodies import too_large

router = APIRouter(prefix="/api/models/{namespace}/{name}", tags=["publishing"])


@router.post("/blobs/{sha256}")
async def assemble(
    target: Target, sha256: Sha256, body: Parts, serving: TheServing, caller: TheCaller
) -> Assembled:
    """The file of which these are the parts, in order, once the hub has them all; else which this name was not sent."""
    return await run_sync(_assemble, serving, caller, target, sha256, body, limiter=serving.large_files)


def _assemble(serving: Serving, caller: Caller, target: Reference, sha256: str, body: Parts) -> Assembled:
    parts = [Blob(part.sha256, part.size) for part in body.parts]
    whole = Blob(sha256, sum(part.size for part in parts))
    if whole.size > MAX_BYTES[WEIGHTS]:
        raise too_large(MAX_BYTES[WEIGHTS])
    check_may(serving, caller, target)
    try:
        return _assembled(serving, caller, target, whole, parts)
    except (
        BlobLost
    ):  # or another push of these bytes was faster, and took the parts away while they were read
        return _assembled(serving, caller, target, whole, parts)


def _assembled(
    serving: Serving, caller: Caller, target: Reference, whole: Blob, parts: Sequence[Blob]
) -> Assembled:
    with serving.store.database.reading() as session:
        known = uploads.awaiting(session, target, {whole.sha256, *(part.sha256 for part in parts)})
        repo = find_repo(session, target)
        if repo is not None:
            known |= uploads.held(session, repo, [whole.sha256])
        if whole.sha256 not in known:  # of equal parts there is one, and all in the file
            there = sum(blob.size for blob in known.values())
            quotas.check_bytes(session, target.namespace, whole.size - there)
    if known.get(whole.sha256) != whole:  # else that was done, and its answer was lost
        kept = [part for part in dict.fromkeys(parts) if known.get(part.sha256) == part]
        if len(kept) < len(set(parts)):
            if kept:
                uploads.await_publication(serving.store, target, kept, caller.token)
            return Assembled(missing=[part.sha256 for part in dict.fromkeys(parts) if part not in kept])
        with serving.store.blobs.incoming() as incoming:
            for part in parts:
                for piece in serving.store.blobs.pieces(part.sha256):
                    incoming.write(piece)
            incoming.keep(whole.sha256, origin="what was put together")
        now = datetime.now(UTC)
        replaced = uploads.await_publication(serving.store, target, [whole], caller.token, parts=parts)
        discard(serving.store, replaced, before=now)
    return Assembled(receipt=receipt(serving.signer, target, whole.sha256, whole.sha256, whole.size))
