"""Which adapters are where: attached to the base (a slot), in host memory, or on disk only; by digest.

    register        known, on disk
    want            a load starts: a loader thread reads it into host memory, then, when a slot is free, attaches it
    hold, release   running requests: what is held is never evicted
    forget          unknown from now on, gone with its last holder

Loads are first come, first served. Where no slot is free, adapters that nobody holds, wants or pinned make room, by
GreedyDual (eviction). When a load has waited `patience` seconds for room, the lowest of the others are drained: requests
already running on them finish, new ones wait, and the load takes their slots. So with more adapters in use than slots
everything still runs, in turns.

All reading, attaching and detaching happens on the loader threads; every method returns at once. Progress needs the
engine to ask again: a `want` that is not repeated within `patience` seconds lapses (its request was cancelled), and
draining begins in the `want` that finds patience at its end.

Does not resolve names, pull, or decide which request runs; knows nothing of KV pages.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from adapthub.adapters.admission import WEIGHTS
from adapthub.adapters.errors import AdapterNotFound, AdaptHubError, InvalidInput, OutOfMemory
from adapthub.adapters.memory import memory_errors
from adapthub.runtime.eviction import GreedyDual
from adapthub.runtime.host_copy import HostCopy, attach_from, attached_bytes, without_bytes

if TYPE_CHECKING:
    from adapthub.adapters.artifact import Artifact
    from adapthub.adapters.attach import AdaptedBase

_ROOM = "Give the runtime more slots or slot_bytes, or unpin an adapter."


@dataclass(frozen=True)
class Resident:
    """One registered adapter. `bytes`: in the slot, else in host memory, else of its weights' file. `holders`: running
    requests; `uses`: how often it was held; `last_used`: when it was last held, on the clock given."""

    digest: str
    state: Literal["slot", "host", "disk"]
    bytes: int
    pinned: bool
    holders: int
    last_used: float | None
    uses: int


@dataclass(eq=False)
class _Adapter:
    """`stage`: out -> queued -> loading -> slot -> leaving -> out. From loading to leaving it takes up a slot."""

    artifact: Artifact
    need: int  # bytes of a slot: the file's, then the tensors', then what was measured
    measured: bool = False
    stage: Literal["out", "queued", "loading", "slot", "leaving"] = "out"
    host: HostCopy | None = None
    reading: bool = False
    pinned: bool = False
    draining: bool = False
    forgotten: bool = False
    holders: int = 0
    uses: int = 0
    last_used: float | None = None
    wanted: float = -math.inf  # when it was last asked for, if not held since
    since: float = math.inf  # when it was first asked for, if not in a slot since
    beside: frozenset[str] = field(default_factory=frozenset)  # what it was last asked for together with
    failure: Exception | None = None
    failed: float = -math.inf

    @property
    def digest(self) -> str:
        return self.artifact.digest

    @property
    def host_size(self) -> int:
        """Bytes in host memory: exact once read, till then by the file."""
        return self.host.host_bytes if self.host else self.artifact.files[WEIGHTS].size


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
        self._slots = math.inf if slots is None else slots
        self._slot_bytes = math.inf if slot_bytes is None else slot_bytes
        self._host_bytes = host_bytes
        self._patience = patience
        self._retry_after = retry_after
        self._clock = clock
        self._lock = threading.Lock()  # never held while the base is touched: that may wait for a pass
        self._adapters: dict[str, _Adapter] = {}
        self._queue: dict[str, _Adapter] = {}  # stage queued, in order
        self._in_slots: dict[str, _Adapter] = {}  # stages loading, slot, leaving
        self._in_host: dict[str, _Adapter] = {}  # read, or being read
        self._slot_order, self._host_order = GreedyDual(), GreedyDual()
        self._drains_at = math.inf
        self._callbacks: list[Callable[[], None]] = []
        self._closed = False
        self._threads = ThreadPoolExecutor(loaders, thread_name_prefix="adapthub-loader")

    def register(self, artifact: Artifact) -> str:
        """Make an adapter known; returns its digest. Reads nothing, and forgets that loading it failed."""
        with self._lock:
            adapter = self._adapters.get(artifact.digest)
            if adapter is None:
                plain = without_bytes(artifact)
                self._adapters[plain.digest] = _Adapter(plain, need=plain.files[WEIGHTS].size)
            else:
                adapter.forgotten, adapter.failure = False, None
                if adapter.stage == "out":  # perhaps from another folder now
                    adapter.artifact = without_bytes(artifact)
        return artifact.digest

    def want(self, digests: Sequence[str]) -> Literal["ready", "loading"]:
        """Whether all are in slots; starts loads for those that are not. Ask again at every step until `hold`.

        "ready" stays true until another `want`, but `patience` seconds at most. Raises AdapterNotFound for what was not
        registered or was forgotten, OutOfMemory for what can never be in slots together, and what a load raised
        (BaseMismatch, TensorMismatch, IntegrityError, StorageError, ...).
        """
        with self._lock:
            if self._closed:
                raise AdaptHubError("the adapters are closed")
            now = self._clock()
            adapters = [self._get(digest) for digest in dict.fromkeys(digests)]
            self._check_room(adapters)
            for adapter in adapters:
                if adapter.failure is not None and now - adapter.failed < self._retry_after:
                    raise adapter.failure.with_traceback(None)
            together = frozenset(digests)
            news = now > self._drains_at or any(adapter.draining for adapter in adapters)
            for adapter in adapters:
                adapter.beside, adapter.wanted = together, now
                if adapter.stage == "out":
                    adapter.failure = None
                    self._enqueue(adapter, now)
                    news = True
            if news:
                self._advance(may_drain=True)
            return "ready" if all(map(_is_ready, adapters)) else "loading"

    def ready(self, digests: Sequence[str]) -> bool:
        """Whether `want` would say "ready"; starts no load and raises nothing. True holds as for `want`."""
        with self._lock:
            adapters = [self._adapters.get(digest) for digest in digests]
            if not all(adapter and not adapter.forgotten and _is_ready(adapter) for adapter in adapters):
                return False
            for adapter in filter(None, adapters):
                adapter.wanted = self._clock()
            return True

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
                adapter.holders += 1
                adapter.uses += 1
                adapter.last_used = self._clock()
                adapter.wanted = -math.inf
                self._slot_order.use(adapter.digest, self._slot_size(adapter))

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
            self._check_room([adapter])
            adapter.pinned = True
            if adapter.stage == "out":
                self._enqueue(adapter, self._clock())
            self._advance()

    def unpin(self, digest: str) -> None:
        """Let it be evicted again. Raises AdapterNotFound."""
        with self._lock:
            self._get(digest).pinned = False
            self._advance()

    def forget(self, digest: str) -> None:
        """Unknown to `want` at once; detached when its last holder released it. Raises AdapterNotFound."""
        with self._lock:
            adapter = self._get(digest)
            adapter.forgotten = True
            adapter.pinned = False
            if adapter.stage == "queued":
                del self._queue[digest]
                adapter.stage = "out"
            self._leave_if_forgotten(adapter)
            self._advance()

    def prefetch(self, digests: Sequence[str]) -> None:
        """Read these into host memory as far as it has room without evicting; no slot is touched, nothing raises."""
        with self._lock:
            for digest in digests:
                adapter = self._adapters.get(digest)
                known = adapter is not None and adapter.failure is None and not adapter.forgotten
                if adapter is None or not known or digest in self._in_host or self._closed:
                    continue
                if self._host_used() + adapter.host_size > self._host_bytes:
                    return
                self._read(adapter)

    def when_ready(self, callback: Callable[[], None]) -> None:
        """Call `callback` on a loader thread whenever a load went on or ended, well or not. It must be quick."""
        self._callbacks.append(callback)

    def snapshot(self) -> tuple[Resident, ...]:
        """Every adapter that is registered, or forgotten and still held."""
        with self._lock:
            return tuple(map(_resident, self._adapters.values()))

    def close(self) -> None:
        """End the loader threads and detach what was attached here; what is running must have ended. Idempotent."""
        with self._lock:
            self._closed = True
        self._threads.shutdown(cancel_futures=True)
        with self._lock:
            attached = self._adapters.keys() & self._adapted.attached.keys()
            for adapters in (self._adapters, self._queue, self._in_slots, self._in_host):
                adapters.clear()
        for digest in attached:
            self._adapted.detach(digest)

    # All below, down to the loader's jobs, is called with the lock held.

    def _get(self, digest: str) -> _Adapter:
        adapter = self._adapters.get(digest)
        if adapter is None or adapter.forgotten:
            raise AdapterNotFound(f"adapter {digest[:19]} is not registered", hint="Register it first.")
        return adapter

    def _check_room(self, adapters: Sequence[_Adapter]) -> None:
        """Raise OutOfMemory where these can never be in slots at once, beside the pinned ones."""
        pinned = [a for a in (*self._in_slots.values(), *self._queue.values()) if a.pinned]
        together = {*adapters, *pinned}
        if len(together) > self._slots:
            raise OutOfMemory(
                f"{len(together)} adapters at once need more than {self._slots} slots", hint=_ROOM
            )
        needed = sum(adapter.need for adapter in together if adapter.host or adapter.measured)
        if needed > self._slot_bytes:
            raise OutOfMemory(
                f"{len(together)} adapters at once need {needed} bytes; the slots have {self._slot_bytes}",
                hint=_ROOM,
            )

    def _slot_size(self, adapter: _Adapter) -> float:
        """Its share of what slots are short of: bytes where these are bounded, else one slot."""
        return 1.0 if math.isinf(self._slot_bytes) else max(adapter.need, 1)

    def _enqueue(self, adapter: _Adapter, now: float) -> None:
        adapter.stage = "queued"
        adapter.since = min(adapter.since, now)
        self._queue[adapter.digest] = adapter

    def _advance(self, *, may_drain: bool = False) -> None:
        """Go on with the queue as far as there is room: read, attach, and where it may, drain. It may only in `want`:
        between that and `hold` nothing that is ready leaves."""
        if self._closed:
            return
        now = self._clock()
        for adapter in [*self._queue.values()]:
            if not self._is_asked(adapter, now):
                del self._queue[adapter.digest]
                adapter.stage = "out"
        self._read_ahead()
        self._drains_at = math.inf
        if may_drain:
            for adapter in self._in_slots.values():
                adapter.draining = False
        before: list[_Adapter] = []  # still being read; their room is not given away
        for adapter in [*self._queue.values()]:
            if adapter.host is None:
                before.append(adapter)
                continue
            victims = self._victims(adapter, before, now)
            if victims is None and may_drain:
                victims = self._drained(adapter, before, now)
            if victims is None:
                self._drains_at = min(self._drains_at, adapter.since + self._patience)
                return
            self._load(adapter, victims)

    def _is_asked(self, adapter: _Adapter, now: float) -> bool:
        return adapter.pinned or now - adapter.wanted <= self._patience

    def _attached(self) -> list[_Adapter]:
        return [adapter for adapter in self._in_slots.values() if adapter.stage == "slot"]

    def _missing(self, incoming: Sequence[_Adapter], leaving: Sequence[_Adapter]) -> bool:
        """Whether there is too little room for `incoming` once `leaving` have left."""
        count = len(self._in_slots) - len(leaving) + len(incoming)
        used = sum(adapter.need for adapter in self._in_slots.values()) - sum(a.need for a in leaving)
        return count > self._slots or used + sum(a.need for a in incoming) > self._slot_bytes

    def _lowest(self, incoming: Sequence[_Adapter], among: Sequence[_Adapter]) -> list[_Adapter] | None:
        """The first to go, as many as make room for `incoming`; None where all of `among` do not."""
        spared = {digest for adapter in incoming for digest in adapter.beside}
        candidates = {a.digest: a for a in among if not a.pinned and a.digest not in spared}
        chosen: list[_Adapter] = []
        for digest in self._slot_order.order(candidates):
            if not self._missing(incoming, chosen):
                break
            chosen.append(candidates[digest])
        return None if self._missing(incoming, chosen) else chosen

    def _victims(self, adapter: _Adapter, before: Sequence[_Adapter], now: float) -> list[_Adapter] | None:
        """Whose slots `adapter` gets; None where it has to wait."""
        idle = [a for a in self._attached() if a.holders == 0]
        free = [a for a in idle if a.draining or not self._is_asked(a, now)]
        return self._lowest([*before, adapter], free)

    def _drained(self, adapter: _Adapter, before: Sequence[_Adapter], now: float) -> list[_Adapter] | None:
        """The same for a load that is out of patience: whoever asks or holds, the lowest finish and leave."""
        if now <= adapter.since + self._patience:
            return None
        victims = self._lowest([*before, adapter], self._attached()) or []
        if victims and all(victim.holders == 0 for victim in victims):
            return victims
        for victim in victims:
            victim.draining = True
        return None

    def _load(self, adapter: _Adapter, victims: Sequence[_Adapter]) -> None:
        """Give `adapter` the slots of `victims`, and the rest to a loader thread."""
        for victim in victims:
            self._leave(victim, evicted=True)
            del self._in_slots[victim.digest]  # the same job detaches them before it attaches
        del self._queue[adapter.digest]
        adapter.stage = "loading"
        self._in_slots[adapter.digest] = adapter
        self._submit(self._attach, adapter, victims)

    def _leave(self, adapter: _Adapter, *, evicted: bool) -> None:
        adapter.stage = "leaving"
        adapter.draining = False
        self._slot_order.drop(adapter.digest, evicted=evicted)

    def _leave_if_forgotten(self, adapter: _Adapter) -> None:
        if not adapter.forgotten or adapter.holders:
            return
        if adapter.stage == "slot":
            self._leave(adapter, evicted=False)
            self._submit(self._detach, adapter)
        elif adapter.stage == "out" and not adapter.reading:
            self._drop_host(adapter, evicted=False)
            self._adapters.pop(adapter.digest, None)

    def _host_used(self) -> int:
        return sum(adapter.host_size for adapter in self._in_host.values())

    def _read_ahead(self) -> None:
        """Begin to read what is queued, in order, as far as host memory goes; at least one whatever its size."""
        for adapter in self._queue.values():
            if adapter.digest in self._in_host:
                continue
            used = [a.host_size for a in self._in_host.values() if not self._is_idle(a)]
            if used and sum(used) + adapter.host_size > self._host_bytes:
                return
            self._trim_host(adapter.host_size)
            self._read(adapter)

    def _read(self, adapter: _Adapter) -> None:
        adapter.reading = True
        self._in_host[adapter.digest] = adapter
        self._submit(self._read_in, adapter)

    def _trim_host(self, coming: int) -> None:
        """Drop copies that no load is about to use until `coming` more bytes fit."""
        over = self._host_used() + coming - self._host_bytes
        idle = [digest for digest, adapter in self._in_host.items() if self._is_idle(adapter)]
        for digest in self._host_order.order(idle) if over > 0 else ():
            if over <= 0:
                return
            over -= self._in_host[digest].host_size
            self._drop_host(self._in_host[digest], evicted=True)

    def _is_idle(self, adapter: _Adapter) -> bool:
        """Whether no load is about to use its copy in host memory."""
        return adapter.host is not None and adapter.stage not in {"queued", "loading"}

    def _drop_host(self, adapter: _Adapter, *, evicted: bool) -> None:
        if adapter.host is not None:
            adapter.host = None
            del self._in_host[adapter.digest]
            self._host_order.drop(adapter.digest, evicted=evicted)

    def _fail(self, adapter: _Adapter, error: Exception) -> None:
        adapter.failure, adapter.failed = error, self._clock()
        adapter.since = math.inf
        adapter.stage = "out"
        self._queue.pop(adapter.digest, None)
        self._in_slots.pop(adapter.digest, None)

    def _submit(self, job: Callable[..., None], adapter: _Adapter, *args: object) -> None:
        if not self._closed:
            self._threads.submit(self._run, job, adapter, *args)

    # The loader threads' jobs: they take the lock themselves.

    def _run(self, job: Callable[..., None], adapter: _Adapter, *args: object) -> None:
        """Do a job on `adapter`, keep what it raised, go on with the queue, and tell the engine."""
        failure: Exception | None = None
        try:
            with memory_errors(f"loading adapter {adapter.digest[:19]}", "Give the runtime fewer slots."):
                job(adapter, *args)
        except Exception as error:  # whatever a stranger's file can cause: the wants of this adapter raise it
            failure = error
        with self._lock:
            if failure is not None:
                self._fail(adapter, failure)
            self._leave_if_forgotten(adapter)
            self._trim_host(0)
            self._advance()
        for callback in self._callbacks:
            callback()

    def _read_in(self, adapter: _Adapter) -> None:
        copy = None
        try:
            copy = HostCopy.load(adapter.artifact, self._adapted.base.device)
        finally:
            with self._lock:
                adapter.reading = False
                if copy is None:
                    del self._in_host[adapter.digest]
                else:
                    adapter.host = copy
                    self._host_order.use(adapter.digest, max(copy.host_bytes, 1))
                    if not adapter.measured:
                        adapter.need = copy.slot_bytes(self._adapted.base.dtype)

    def _attach(self, adapter: _Adapter, victims: Sequence[_Adapter]) -> None:
        for victim in victims:
            self._take_out(victim)
        assert adapter.host is not None
        attach_from(adapter.host, self._adapted)
        size = attached_bytes(adapter.digest, self._adapted)
        with self._lock:
            adapter.need, adapter.measured = size, True
            adapter.stage, adapter.since = "slot", math.inf
            adapter.wanted = max(adapter.wanted, self._clock())
            self._slot_order.use(adapter.digest, self._slot_size(adapter))
            self._host_order.use(adapter.digest, max(adapter.host_size, 1))
            if self._missing([], []):  # binding took more than its tensors: again, now that its size is known
                self._leave(adapter, evicted=False)
                self._submit(self._detach, adapter)

    def _detach(self, adapter: _Adapter) -> None:
        self._take_out(adapter)
        with self._lock:
            del self._in_slots[adapter.digest]

    def _take_out(self, adapter: _Adapter) -> None:
        with suppress(AdapterNotFound):  # gone already is as good
            self._adapted.detach(adapter.digest)
        with self._lock:
            adapter.stage = "out"


def _is_ready(adapter: _Adapter) -> bool:
    return adapter.stage == "slot" and not adapter.draining


def _resident(adapter: _Adapter) -> Resident:
    if adapter.stage == "slot":
        state: Literal["slot", "host", "disk"] = "slot"
        size = adapter.need
    else:
        state = "host" if adapter.host else "disk"
        size = adapter.host_size
    return Resident(
        adapter.digest, state, size, adapter.pinned, adapter.holders, adapter.last_used, adapter.uses
    )
