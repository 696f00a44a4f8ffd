"""Which adapters are where: attached to the base (a slot), in host memory, or on disk only; by digest.

    register        known, on disk
    want            a load starts: a loader thread reads it into host memory, then, when a slot is free, attaches it
    hold, release   running requests: what is held is never evicted
    forget          unknown from now on, gone with its last holder

First asked, first served (`asks`); what an expression needs is asked for as one. Where no slot is free, adapters that
nobody holds, asks for or pinned make room. Whoever has waited `patience` seconds for room drains others (`slots`): requests
that run on them finish, new ones wait, and then their slots are taken. So with more adapters in use than slots everything
still runs, in turns. Copies stay in host memory as far as there is room (`host_memory`).

All reading, attaching and detaching happens on threads of its own (`loader`); every method returns at once. Progress needs
the engine to ask again: draining begins in the `want` that finds patience at its end.

Does not resolve names, pull, or decide which request runs; knows nothing of KV pages.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from adapthub.adapters.admission import WEIGHTS
from adapthub.adapters.errors import AdapterNotFound, AdaptHubError, InvalidInput
from adapthub.runtime.asks import Asks
from adapthub.runtime.host_copy import HostCopy, without_bytes
from adapthub.runtime.host_memory import HostMemory
from adapthub.runtime.loader import Loader
from adapthub.runtime.registered import Registered, Resident
from adapthub.runtime.slots import Slots

if TYPE_CHECKING:
    from adapthub.adapters.artifact import Artifact
    from adapthub.adapters.attach import AdaptedBase


@dataclass
class Moves:
    """What was moved so far. `loads`: adapters put into a slot; `swaps`: adapters taken out of one for another; `failures`:
    reads and loads that raised; `seconds`: that threads spent reading, attaching and detaching."""

    loads: int = 0
    swaps: int = 0
    failures: int = 0
    seconds: float = 0.0


class Residency:
    """The adapters of one AdaptedBase. Safe to use from several threads.

    `slots`, `slot_bytes`: how many adapters may be attached and what they may take together on the base's device; None
    for no bound. `host_bytes`: copies kept in host memory, in slots or not; the one that is loaded next is read even
    where it alone is more. `loaders`: threads. `patience`: seconds, as above. `retry_after`: seconds for which a failed
    load is remembered; registering anew forgets it.
    """

    def __init__(
        self,
        adapted: AdaptedBase,
        *,
        slots: int | None,
        slot_bytes: int | None,
        host_bytes: int,
        loaders: int = 2,
        patience: float = 2.0,
        retry_after: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._adapted = adapted
        self._retry_after = retry_after
        self._clock = clock
        self._lock = threading.Lock()  # never held while the base is touched: that may wait for a pass
        self._adapters: dict[str, Registered] = {}
        self._asks = Asks(patience)
        self._slots = Slots(slots, slot_bytes, self._adapters, self._asks, patience)
        self._host = HostMemory(host_bytes, self._adapters)
        self._loader = Loader(
            adapted,
            loaders,
            was_read=self._was_read,
            was_attached=self._was_attached,
            was_detached=self._was_detached,
            ended=self._load_ended,
        )
        self._callbacks: list[Callable[[], None]] = []
        self._moves = Moves()

    def register(self, artifact: Artifact) -> str:
        """Make an adapter known; returns its digest. Reads nothing, and forgets that loading it failed."""
        with self._lock:
            adapter = self._adapters.get(artifact.digest)
            if adapter is None:
                plain = without_bytes(artifact)
                self._adapters[plain.digest] = Registered(plain, need=plain.files[WEIGHTS].size)
            else:
                adapter.forgotten, adapter.failure = False, None
                if adapter.stage == "out":  # perhaps from another folder now
                    adapter.artifact = without_bytes(artifact)
        return artifact.digest

    def want(self, digests: Sequence[str]) -> Literal["ready", "loading"]:
        """Whether all are in slots; starts loads for those that are not. Ask again at every step until `hold`.

        What is "ready" can be held at once, also after another `want`. Raises AdapterNotFound for what was not registered
        or was forgotten, OutOfMemory for what can never be in slots together, and what a load raised (BaseMismatch,
        TensorMismatch, IntegrityError, StorageError, ...).
        """
        with self._lock:
            if self._loader.closed:
                raise AdaptHubError("the adapters are closed")
            adapters = [self._get(digest) for digest in dict.fromkeys(digests)]
            try:
                self._check(adapters)
            except Exception:
                self._asks.drop(digests)  # it must not keep the others waiting
                self._advance()
                raise
            now = self._clock()
            news = digests not in self._asks and not all(map(self._slots.is_ready, adapters))
            self._asks.add(adapters, now)
            if news or self._slots.is_due(digests, now):
                self._advance(may_drain=True)
            return "ready" if all(map(self._slots.is_ready, adapters)) else "loading"

    def ready(self, digests: Sequence[str]) -> bool:
        """Whether `want` would say "ready"; starts no load and raises nothing."""
        with self._lock:
            adapters = [a for d in dict.fromkeys(digests) if (a := self._adapters.get(d)) and not a.forgotten]
            if len(adapters) < len({*digests}) or not all(map(self._slots.is_ready, adapters)):
                return False
            self._asks.add(adapters, self._clock())
            return True

    def unwant(self, digests: Sequence[str]) -> None:
        """A request that asked for these was cancelled. Whoever else waits for the same asks again."""
        with self._lock:
            self._asks.drop(digests)
            self._advance()

    def hold(self, digests: Sequence[str]) -> None:
        """Keep what `want` called ready, until `release`. Raises AdapterNotFound, and holds nothing, where one of them
        is not in a slot: forgotten, or evicted because `want` was too long ago."""
        with self._lock:
            adapters = [self._get(digest) for digest in digests]
            for adapter in adapters:
                if adapter.stage != "slot":
                    raise AdapterNotFound(
                        f"adapter {adapter.digest[:19]} is not loaded", hint="Wait until `want` says ready."
                    )
            for adapter in adapters:
                self._slots.hold(adapter, self._clock())
            self._asks.drop(digests)

    def release(self, digests: Sequence[str]) -> None:
        """A request that held these ended."""
        with self._lock:
            for digest in digests:
                adapter = self._adapters.get(digest)
                if adapter is None or adapter.holders == 0:
                    raise InvalidInput(f"adapter {digest[:19]} was released more often than held")
                adapter.holders -= 1
                self._leave_if_forgotten(adapter)
            self._advance()

    def pin(self, digest: str) -> None:
        """Load it and keep it in its slot until `unpin`; `want` says how that went. Raises AdapterNotFound, and
        OutOfMemory where the pinned ones would need more than there is."""
        with self._lock:
            adapter = self._get(digest)
            self._slots.check_room([adapter])
            adapter.pinned = True
            self._asks.add([adapter], self._clock(), pinned=True)
            self._advance()

    def unpin(self, digest: str) -> None:
        """Let it be evicted again. Raises AdapterNotFound."""
        with self._lock:
            self._get(digest).pinned = False
            self._asks.unpin(digest)
            self._advance()

    def forget(self, digest: str) -> None:
        """Unknown to `want` at once; detached when its last holder released it. Raises AdapterNotFound."""
        with self._lock:
            adapter = self._get(digest)
            adapter.forgotten = True
            adapter.pinned = False
            self._asks.drop_all_with(adapter)
            self._leave_if_forgotten(adapter)
            self._advance()

    def prefetch(self, digests: Sequence[str]) -> None:
        """Read these into host memory as far as it has room without evicting; no slot is touched, nothing raises."""
        with self._lock:
            for digest in digests:
                adapter = self._adapters.get(digest)
                known = adapter is not None and adapter.failure is None and not adapter.forgotten
                if adapter is None or not known or digest in self._host.held or self._loader.closed:
                    continue
                if not self._host.has_room(adapter):
                    return
                self._host.begin(adapter)
                self._loader.read(adapter)

    def when_ready(self, callback: Callable[[], None]) -> None:
        """Call `callback` on a loader thread whenever a load went on or ended, well or not. It must be quick."""
        self._callbacks.append(callback)

    def snapshot(self) -> tuple[Resident, ...]:
        """Every adapter that is registered, or forgotten and still held."""
        with self._lock:
            return tuple(adapter.resident() for adapter in self._adapters.values())

    @property
    def moves(self) -> Moves:
        """What was loaded and evicted so far: a snapshot."""
        with self._lock:
            return replace(self._moves)

    def close(self) -> None:
        """End the loader threads and detach what was attached here; what is running must have ended. Idempotent."""
        with self._lock:
            self._loader.close()
        self._loader.join()
        attached = self._adapters.keys() & self._adapted.attached.keys()
        with self._lock:
            self._adapters.clear()
            self._asks.clear()
        for digest in attached:
            self._adapted.detach(digest)

    # All below, down to what the loader tells, is called with the lock held.

    def _get(self, digest: str) -> Registered:
        adapter = self._adapters.get(digest)
        if adapter is None or adapter.forgotten:
            raise AdapterNotFound(f"adapter {digest[:19]} is not registered", hint="Register it first.")
        return adapter

    def _check(self, adapters: Sequence[Registered]) -> None:
        """Raise what keeps these from ever being ready."""
        for adapter in adapters:
            if self._clock() - adapter.failed >= self._retry_after:
                adapter.failure = None
            if adapter.failure is not None:
                raise adapter.failure.with_traceback(None)
        self._slots.check_room(adapters)

    def _advance(self, *, may_drain: bool = False) -> None:
        """Serve the asks in order as far as there is room: read, attach, and where it may, begin to drain."""
        now = self._clock()
        self._asks.lapse(now)
        for adapter in self._host.reads(self._asks.missing):
            self._loader.read(adapter)
        for adapter, leaving in self._slots.loads(now, may_drain=may_drain):
            self._moves.swaps += len(leaving)
            self._loader.attach(adapter, leaving)

    def _leave(self, adapter: Registered) -> None:
        self._slots.leave(adapter)
        self._loader.detach(adapter)

    def _leave_if_forgotten(self, adapter: Registered) -> None:
        if not adapter.forgotten or adapter.holders:
            return
        if adapter.stage == "slot":
            self._leave(adapter)
        elif adapter.stage == "out" and not adapter.reading:
            if adapter.host is not None:
                self._host.drop(adapter)
            if self._adapters.get(adapter.digest) is adapter:  # else it was registered anew meanwhile
                del self._adapters[adapter.digest]

    # What the loader tells, on its threads.

    def _was_read(self, adapter: Registered, copy: HostCopy | None) -> None:
        with self._lock:
            self._host.was_read(adapter, copy)
            if copy is not None and not adapter.measured:
                adapter.need = copy.slot_bytes(self._adapted.base.dtype)

    def _was_attached(self, adapter: Registered, size: int) -> None:
        with self._lock:
            self._moves.loads += 1
            fits = self._slots.was_attached(adapter, size)
            self._host.use(adapter)
            if not fits:  # again, now that its size is known
                self._leave(adapter)

    def _was_detached(self, adapter: Registered) -> None:
        with self._lock:
            self._slots.was_detached(adapter)
            self._leave_if_forgotten(adapter)

    def _load_ended(self, adapter: Registered, failure: Exception | None, seconds: float) -> None:
        """Keep what a job raised, for the wants of its adapter; go on with the asks, and tell the engine."""
        with self._lock:
            self._moves.seconds += seconds
            if failure is not None:
                self._moves.failures += 1
                adapter.failure, adapter.failed = failure, self._clock()
                self._slots.was_detached(adapter)
                self._asks.drop_all_with(adapter)
            self._leave_if_forgotten(adapter)
            self._advance()
        for callback in self._callbacks:
            callback()
