"""Bodies to where they are kept: written in a thread, in large pieces, while more comes. Does not bound or check them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable

from anyio.to_thread import run_sync

_BATCH_BYTES = 2**20


async def write_behind(pieces: AsyncIterator[bytes], write: Callable[[bytes], None]) -> None:
    """Let `write`, which may block, have every piece, in order. About a MiB is being written while the next MiB comes; then
    the sender waits.

    Raises what `pieces` and `write` raise. When this ends, however it does, nothing is being written any more.
    """
    writing: asyncio.Task[None] | None = None
    waiting: list[bytes] = []
    size = 0
    try:
        async for piece in pieces:
            waiting.append(piece)
            size += len(piece)
            if size < _BATCH_BYTES:
                continue
            if writing is not None:
                await writing
            writing = asyncio.create_task(run_sync(_write_all, waiting, write))
            waiting, size = [], 0
        if writing is not None:
            await writing
        await run_sync(_write_all, waiting, write)
    finally:
        if writing is not None:
            await asyncio.gather(writing, return_exceptions=True)


def _write_all(pieces: Iterable[bytes], write: Callable[[bytes], None]) -> None:
    for piece in pieces:
        write(piece)
