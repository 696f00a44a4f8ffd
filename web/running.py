"""A server that runs: uvicorn over a port that is taken, until a signal to end, then drained; a second signal ends it at
once.

Does not open what the application is over, or close it.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from threading import current_thread, main_thread
from typing import Generic, TypeVar, cast

import uvicorn
from starlette.types import ASGIApp

from adapthub.web.listening import address_of
from adapthub.web.protocol import BoundedProtocol

_POLL = 0.02  # seconds
_BACKLOG = 2048

Serving = TypeVar("Serving")


@dataclass(frozen=True)
class Running(Generic[Serving]):
    """A server that takes requests at `address`, a URL; `serving`: what its endpoints share; `stop` lets it drain and end,
    from any thread."""

    serving: Serving
    address: str
    stop: Callable[[], None]


async def run(
    app: ASGIApp,
    serving: Serving,
    listener: socket.socket,
    protocol: partial[BoundedProtocol],
    *,
    announce: Callable[[Running[Serving]], None],
    drain: Callable[[], Awaitable[None]] | None = None,
    tails: int,
) -> None:
    """Answer requests until a signal to end, or until `Running.stop`. Then `drain` is waited for, while requests are still
    taken, and those that run then get `tails` seconds. `announce` is called once requests are taken."""
    server = _Server(
        uvicorn.Config(
            app,
            lifespan="off",
            http=cast("type[asyncio.Protocol]", protocol),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=tails,
        )
    )
    loop = asyncio.get_running_loop()
    ending: list[asyncio.Task[None]] = []

    async def drain_and_end() -> None:
        if drain is not None:
            await drain()
        server.should_exit = True

    def end() -> None:
        if not ending:
            ending.append(loop.create_task(drain_and_end()))

    def stop() -> None:
        with suppress(RuntimeError):  # the loop is closed: the server has ended
            loop.call_soon_threadsafe(end)

    with _signals(loop, end):
        task = asyncio.create_task(server.serve([listener]))
        while not server.started and not task.done():
            await asyncio.sleep(_POLL)
        if server.started:
            announce(Running(serving, address_of(listener), stop))
        await task


class _Server(uvicorn.Server):
    """uvicorn's, without its signals: it would not drain, and end by the signal once more when it is done."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextmanager
def _signals(loop: asyncio.AbstractEventLoop, end: Callable[[], None]) -> Iterator[None]:
    """Within: the first signal to end calls `end`, a second one ends the process. Only on the main thread."""
    if current_thread() is not main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def first() -> None:
        for number in before:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        end()

    for number in before:
        loop.add_signal_handler(number, first)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
