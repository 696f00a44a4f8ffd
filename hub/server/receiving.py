"""A request's body as a blob: written to the blob store while it comes, and kept once it is whole.

Does not say who may send it, or write down who did.
"""

from __future__ import annotations

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from adapthub.adapters.errors import InvalidSettings
from adapthub.hub.server.write_behind import write_behind
from adapthub.hub.storage.blobs import Blobs
from adapthub.web.bodies import pieces


async def keep_body(
    request: Request, blobs: Blobs, size: int, *, sha256: str | None = None, origin: str = "the upload"
) -> str:
    """Store the body, which has `size` bytes; its sha256, which is `sha256` where that is given.

    Raises HTTPException 413 where it is larger, InvalidSettings where it ended before, IntegrityError for other bytes.
    """
    incoming = await run_in_threadpool(blobs.incoming)
    try:
        await write_behind(pieces(request, size), incoming.write)
        if incoming.size != size:
            raise InvalidSettings(f"{incoming.size} of {size} bytes came", hint="Upload the file again.")
        found = sha256 or incoming.sha256
        await run_in_threadpool(incoming.keep, found, origin=origin)
    finally:
        await run_in_threadpool(incoming.close)
    return found
