"""A real server on loopback, in a thread of its own with its own event loop, and waiting for what it does."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from adapthub.web.running import Running


class _Sooner:
    """asyncio, whose `sleep` is a fifth as long. uvicorn's server looks each tenth of a second whether it is to end, and
    waits as long for its connections: hundreds of tests would wait for that."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    @staticmethod
    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds / 5)


pytest.MonkeyPatch().setattr("uvicorn.server.asyncio", _Sooner())


@contextmanager
def in_a_thread(serve: Callable[..., None]) -> Iterator[Running[Any]]:
    """Within: the server runs that `serve` hands to its argument `announce`."""
    started: queue.Queue[Running[Any] | BaseException] = queue.Queue()

    def run() -> None:
        try:
            serve(announce=started.put)
        except BaseException as error:
            started.put(error)

    thread = threading.Thread(target=run, name="server", daemon=True)
    thread.start()
    running = started.get(timeout=120)
    if isinstance(running, BaseException):
        thread.join()
        raise running
    try:
        yield running
    finally:
        running.stop()
        thread.join(timeout=60)
        assert not thread.is_alive(), "the server did not end"


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait for what another thread does."""
    last = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < last, what
        time.sleep(0.005)
