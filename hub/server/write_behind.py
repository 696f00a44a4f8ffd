"""Bodies to where they are kept: written by a thread, in large pieces, while more comes. Does not bound or check them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

from anyio.to_thread import run_sync

_BATCH_BYTES = 2**19
_BATCHES = 4


async def write_behind(pieces: AsyncIterator[bytes], write: Callable[[memoryview], object]) -> None:
    """Let `write`, which may block, have all bytes, in order, in views that are good until it returns. It gets up to 2 MiB
    behind what comes; then the sender waits.

    Raises what `pieces` and `write` raise. When this ends, however it does, nothing is being written any more.
    """
    # Buffers that are used again: to hold on to what came would take new memory for it, which costs more than this copy.
    buffers = deque(memoryview(bytearray(_BATCH_BYTES)) for _ in range(_BATCHES))
    size = 0
    async with _Thread(write) as thread:
        async for piece in pieces:
            rest = memoryview(piece)
            while len(rest) >= _BATCH_BYTES - size:
                end = _BATCH_BYTES - size
                buffers[0][size:], rest = rest[:end], rest[end:]
                thread.hand_over(buffers[0])
                await thread.behind(_BATCHES - 1)
                buffers.rotate(-1)
                size = 0
            buffers[0][size : size + len(rest)] = rest
            size += len(rest)
        await thread.behind(0)
    if size:
        await run_sync(write, buffers[0][:size])


class _Thread:
    """A thread that goes on by itself from one view to the next: to begin each from the event loop takes as long as writing
    it does. Begun with the first one."""

    def __init__(self, write: Callable[[memoryview], object]) -> None:
        self._write = write
        self._thread: ThreadPoolExecutor | None = None
        self._writing: deque[asyncio.Future[object]] = deque()

    async def __aenter__(self) -> _Thread:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._thread is not None:
            await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)
            await asyncio.gather(*self._writing, return_exceptions=True)

    def hand_over(self, view: memoryview) -> None:
        """Let it be written after those before it."""
        self._thread = self._thread or ThreadPoolExecutor(1, "write-behind")
        loop = asyncio.get_running_loop()
        self._writing.append(loop.run_in_executor(self._thread, self._write, view))

    async def behind(self, most: int) -> None:
        """Wait until so many views at most are not written. Raises what writing one raised."""
        while len(self._writing) > most:
            await self._writing.popleft()
