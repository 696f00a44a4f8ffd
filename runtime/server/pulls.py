"""Turns to pull adapters: a few at once, which share their threads with prompts, and not all of them one tenant's.

A tenant waits for its own turn before it joins what another began, so that nobody waits for the turn of another. Does not
know adapters or hubs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any
from weakref import WeakValueDictionary

from adapthub.runtime.server.resolving import joined

_AT_ONCE = 16
_OF_ONE = 12  # of one tenant: others are not to wait behind all of its adapters


class Pulls:
    """What is pulled, or waits for a turn, by source."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Task[None]] = {}
        self._waiting: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._all = asyncio.Semaphore(_AT_ONCE)
        self._of: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def once(self, tenant: str, source: str, pull: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """`pull` the source when it is this tenant's turn, once for all that ask meanwhile. `pull` finds itself whether
        another tenant has pulled it by then. Raises what `pull` raises."""
        await joined(self._waiting, (tenant, source), lambda: self._in_turn(tenant, source, pull))

    async def ended(self, sources: Sequence[str]) -> None:
        """Wait for those of `sources` that are pulled or wait for a turn, however that ends, until all that asked for them
        have gone on."""
        if tasks := [task for (_, source), task in self._waiting.items() if source in sources]:
            await asyncio.wait(tasks)
            await asyncio.sleep(0)  # who asked after this one began to wait is woken after it

    async def _in_turn(self, tenant: str, source: str, pull: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async with self._of.setdefault(tenant, asyncio.Semaphore(_OF_ONE)):
            await joined(self._running, source, lambda: self._pulled(pull))

    async def _pulled(self, pull: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async with self._all:
            await pull()
