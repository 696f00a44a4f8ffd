"""What references mean, asked of the hub as seldom as that may be: once for all that ask meanwhile, an alias again every
second, a version never.

Does not know which adapters are served, or load any. Called on the event loop; the hub is read on threads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from adapthub.hub.reference import Reference
from adapthub.hub.registry import Registry, Version

# Seconds for which an alias means what it meant: moves made elsewhere are seen after that, those made here at once.
_FRESH = 1.0
_KEPT = 4096
_DIGITS = 64  # of a whole digest

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Resolver:
    """The versions of one `hub`."""

    def __init__(self, hub: Registry) -> None:
        self._hub = hub
        self._known: dict[Reference, tuple[float, Version]] = {}
        self._asking: dict[Reference, asyncio.Task[Version]] = {}

    async def resolve(self, reference: Reference, *, fresh: bool = False) -> Version:
        """The version that a reference means. `fresh`: as the hub has it now. What a number or a whole digest once meant
        needs no hub. Raises what the hub raises.
        """
        asked, version = self._known.get(reference, (0.0, None))
        recent = not fresh and time.monotonic() - asked < _FRESH
        if version is not None and (recent or _is_immutable(reference)):
            return version
        if fresh:  # one that asks already may have its answer from before
            self._asking.pop(reference, None)
        return await joined(self._asking, reference, lambda: self._ask(reference))

    def forget_aliases(self) -> None:
        """One moved: ask again."""
        self._asking.clear()
        self._known = {known: found for known, found in self._known.items() if _is_immutable(known)}

    async def _ask(self, reference: Reference) -> Version:
        now, asking = time.monotonic(), asyncio.current_task()
        version = await asyncio.to_thread(self._hub.resolve, reference)
        if self._asking.get(reference) is asking:  # else an alias has moved, or a later one asks
            while len(self._known) >= _KEPT:
                del self._known[next(iter(self._known))]
            self._known[reference] = now, version
        return version


async def joined(
    running: dict[_Key, asyncio.Task[_Value]], key: _Key, work: Callable[[], Coroutine[Any, Any, _Value]]
) -> _Value:
    """What `work` comes to, done once for all that ask for `key` meanwhile. Who stops waiting stops nobody else."""
    task = running.get(key)
    if task is None:
        task = running[key] = asyncio.create_task(work())

        def ended(task: asyncio.Task[_Value]) -> None:
            if running.get(key) is task:
                del running[key]
            if not task.cancelled():
                task.exception()  # seen, also where nobody waits any more

        task.add_done_callback(ended)
    return await asyncio.shield(task)


def _is_immutable(reference: Reference) -> bool:
    return reference.number is not None or len(reference.commit or "") == _DIGITS
