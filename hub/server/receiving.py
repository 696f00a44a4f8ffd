"""Bodies of requests that are too large for memory: written while they come, to the blob store, where they are kept once
they are whole, or aside, to be read again.

Does not say who may send them, or write down who did.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile, gettempdir
from typing import IO, TypeVar

from anyio.to_thread import run_sync
from fastapi import Request
from starlette.concurrency import run_in_threadpool

from adapthub.adapters.errors import InvalidSettings, StorageError
from adapthub.hub.server.serving import Serving
from adapthub.hub.server.write_behind import write_behind
from adapthub.hub.storage.blobs import Blobs
from adapthub.web.bodies import pieces

Result = TypeVar("Result")
LARGE_BYTES = 2**20  # from which on a body, or a line of one, is large


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


@dataclass(frozen=True)
class Spooled:
    """A whole body, of `size` bytes: `lines`, and all else of a file."""

    lines: IO[bytes]
    size: int


@asynccontextmanager
async def spooled(request: Request, most: int) -> AsyncIterator[Spooled]:
    """The body, of at most `most` bytes: in memory where it is small, else in a temporary file. Raises HTTPException 413,
    StorageError."""
    with SpooledTemporaryFile(max_size=LARGE_BYTES) as file:
        try:
            await write_behind(pieces(request, most), file.write)
            size = file.tell()
            file.seek(0)
        except OSError as error:
            raise StorageError(
                f"the body cannot be written to {gettempdir()}: {error.strerror or error}",
                hint="Whoever runs the hub can free space there, or set TMPDIR.",
            ) from error
        yield Spooled(file, size)


async def run_with(
    serving: Serving, body: Spooled, function: Callable[..., Result], *arguments: object
) -> Result:
    """Call a `function` that reads `body`, in a thread; where it is large in one of those that are for large bodies, so that
    all others are free."""
    limiter = serving.large_bodies if body.size > LARGE_BYTES else None
    return await run_sync(function, *arguments, limiter=limiter)
