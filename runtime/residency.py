"""Which adapters are where: attached to the base (a slot), in host memory, or on disk only; by digest.

    register        known, on disk
    want            a load starts: a loader thread reads it into host memory, then, when a slot is free, attaches it
    hold, release   running requests: what is held is never evicted
    forget          unknown from now on, gone with its last holder

First asked, first served; what an expression needs is asked for as one. Where no slot is free, adapters that nobody
holds, asks for or pinned make room, in the order of `tier`. Whoever has waited `patience` seconds for room drains others,
the lowest first: requests that run on them finish, new ones wait, and then their slots are taken. So with more adapters
in use than slots everything still runs, in turns.

All reading, attaching and detaching happens on the loader threads; every method returns at once. Progress needs the
engine to ask again: draining begins in the `want` that finds patience at its end.

Does not resolve names, pull, or decide which request runs; knows nothing of KV pages.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from adapthub.adapters.admission import WEIGHTS
from adapthub.adapters.errors import AdapterNotFound, AdaptHubError, InvalidInput, OutOfMemory
from adapthub.adapters.memory import memory_errors
from adapthub.runtime.host_copy import HostCopy, attach_from, attached_bytes, without_bytes
from adapthub.runtime.tier import Tier

if TYPE_CHECKING:
    from adapthub.adapters.artifact import Artifact
    from adapthub.adapters.attach import AdaptedBase

_LAPSE = 3  # in units of patience: an ask that nobody repeats for longer is dropped
# Seconds between "not ready any more" and being evicted: whoever was told "ready" before holds it by then.
_GRACE = 0.1
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
    """`stage`: out -> loading -> slot -> leaving -> out."""

    artifact: Artifact
    need: int  # bytes of a slot: the file's, then the tensors', then what was measured
    measured: bool = False
    stage: Literal["out", "loading", "slot", "leaving"] = "out"
    host: HostCopy | None = None
    reading: bool = False
    pinned: bool = False
    forgotten: bool = False
    holders: int = 0
    uses: int = 0
    last_used: float | None = None
    failure: Exception | None = None
    failed: float = -math.inf

    @property
    def digest(self) -> str:
        return self.artifact.digest

    @property
    def host_size(self) -> int:
        """Bytes in host memory: exact once read, till then by the file."""
        return self.host.host_bytes if self.host else self.artifact.files[WEIGHTS].size


@dataclass
class _Ask:
    """Somebody wants these together; gone once they are held. `last` is infinite for what is pinned."""

    adapters: list[_Adapter]
    since: float
    last: float


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
        self._slots = Tier(slots, slot_bytes)  # stages loading, slot, leaving
        self._host = Tier(None, host_bytes)  # read, or being read
        self._patience = patience
        self._retry_after = retry_after
        self._clock = clock
        self._lock = threading.Lock()  # never held while the base is touched: that may wait for a pass
        self._adapters: dict[str, _Adapter] = {}
        self._asks: dict[tuple[str, ...], _Ask] = {}  # by sorted digests, in the order of `since`
        self._draining: dict[
            str, float
        ] = {}  # since when; these are not ready, and leave with their last holder
        self._drains_at = math.inf  # when a `want` is to look after them
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

        What is "ready" can be held at once, also after another `want`. Raises AdapterNotFound for what was not registered
        or was forgotten, OutOfMemory for what can never be in slots together, and what a load raised (BaseMismatch,
        TensorMismatch, IntegrityError, StorageError, ...).
        """
        with self._lock:
            if self._closed:
                raise AdaptHubError("the adapters are closed")
            adapters = [self._get(digest) for digest in dict.fromkeys(digests)]
            try:
                self._check(adapters)
            except Exception:
                self._drop_ask(digests)  # it must not keep the others waiting
                self._advance()
                raise
            news = _key(digests) not in self._asks and not all(map(self._is_ready, adapters))
            self._ask(adapters, self._clock())
            if news or self._clock() > self._drains_at or self._draining.keys() & {*digests}:
                self._advance(may_drain=True)
            return "ready" if all(map(self._is_ready, adapters)) else "loading"

    def ready(self, digests: Sequence[str]) -> bool:
        """Whether `want` would say "ready"; starts no load and raises nothing."""
        with self._lock:
            adapters = [a for d in dict.fromkeys(digests) if (a := self._adapters.get(d)) and not a.forgotten]
            if len(adapters) < len({*digests}) or not all(map(self._is_ready, adapters)):
                return False
            self._ask(adapters, self._clock())
            return True

    def unwant(self, digests: Sequence[str]) -> None:
        """A request that asked for these was cancelled. Whoever else waits for the same asks again."""
        with self._lock:
            self._drop_ask(digests)
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
                adapter.holders += 1
                adapter.uses += 1
                adapter.last_used = self._clock()
                self._slots.use(adapter.digest)
            self._drop_ask(digests)

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
            self._ask([adapter], math.inf)
            self._advance()

    def unpin(self, digest: str) -> None:
        """Let it be evicted again. Raises AdapterNotFound."""
        with self._lock:
            self._get(digest).pinned = False
            self._asks.pop(_key([digest]), None)
            self._advance()

    def forget(self, digest: str) -> None:
        """Unknown to `want` at once; detached when its last holder released it. Raises AdapterNotFound."""
        with self._lock:
            adapter = self._get(digest)
            adapter.forgotten = True
            adapter.pinned = False
            self._drop_asks_for(adapter)
            self._leave_if_forgotten(adapter)
            self._advance()

    def prefetch(self, digests: Sequence[str]) -> None:
        """Read these into host memory as far as it has room without evicting; no slot is touched, nothing raises."""
        with self._lock:
            for digest in digests:
                adapter = self._adapters.get(digest)
                known = adapter is not None and adapter.failure is None and not adapter.forgotten
                if adapter is None or not known or digest in self._host.held or self._closed:
                    continue
                if self._host.lacks([adapter.host_size]):
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
        attached = self._adapters.keys() & self._adapted.attached.keys()
        with self._lock:
            self._adapters.clear()
            self._asks.clear()
        for digest in attached:
            self._adapted.detach(digest)

    # All below, down to the loader's jobs, is called with the lock held.

    def _get(self, digest: str) -> _Adapter:
        adapter = self._adapters.get(digest)
        if adapter is None or adapter.forgotten:
            raise AdapterNotFound(f"adapter {digest[:19]} is not registered", hint="Register it first.")
        return adapter

    def _check(self, adapters: Sequence[_Adapter]) -> None:
        """Raise what keeps these from ever being ready."""
        for adapter in adapters:
            if self._clock() - adapter.failed >= self._retry_after:
                adapter.failure = None
            if adapter.failure is not None:
                raise adapter.failure.with_traceback(None)
        self._check_room(adapters)

    def _check_room(self, adapters: Sequence[_Adapter]) -> None:
        """Raise OutOfMemory where these can never be in slots at once, beside the pinned ones."""
        pinned = [ask.adapters[0] for ask in self._asks.values() if math.isinf(ask.last)]
        together = {*adapters, *(adapter for adapter in pinned if adapter.failure is None)}
        if len(together) > self._slots.count:
            raise OutOfMemory(
                f"{len(together)} adapters at once need more than {self._slots.count} slots", hint=_ROOM
            )
        needed = sum(adapter.need for adapter in together if adapter.host or adapter.measured)
        if needed > self._slots.size:
            raise OutOfMemory(
                f"{len(together)} adapters at once need {needed} bytes; the slots have {self._slots.size}",
                hint=_ROOM,
            )

    def _is_ready(self, adapter: _Adapter) -> bool:
        return adapter.stage == "slot" and adapter.digest not in self._draining

    def _ask(self, adapters: Sequence[_Adapter], last: float) -> None:
        key = _key([adapter.digest for adapter in adapters])
        ask = self._asks.setdefault(key, _Ask([*adapters], self._clock(), last))
        ask.last = max(ask.last, last)

    def _drop_ask(self, digests: Sequence[str]) -> None:
        ask = self._asks.get(_key(digests))
        if ask is not None and not math.isinf(ask.last):
            del self._asks[_key(digests)]

    def _drop_asks_for(self, adapter: _Adapter) -> None:
        """All that can no longer be served; a pinned adapter stays asked for."""
        for key, ask in [*self._asks.items()]:
            if adapter in ask.adapters and not (adapter.pinned and math.isinf(ask.last)):
                del self._asks[key]

    def _advance(self, *, may_drain: bool = False) -> None:
        """Serve the asks in order as far as there is room: read, attach, and where it may, begin to drain."""
        now = self._clock()
        for key, ask in [*self._asks.items()]:
            if now - ask.last > _LAPSE * self._patience:
                del self._asks[key]
        self._drains_at = math.inf
        asked = (adapter for ask in self._asks.values() for adapter in ask.adapters)
        missing = list(dict.fromkeys(filter(_is_missing, asked)))
        self._trim_host(0, missing, ())
        if missing:
            self._read_ahead(missing)
        earlier = self._draining
        if may_drain:
            self._draining = {}
        self._fill_slots(now, earlier if may_drain else None)

    def _fill_slots(self, now: float, earlier: Mapping[str, float] | None) -> None:
        """Load what is missing and read. `earlier`: what drained till now; None where nothing new may."""
        kept: set[str] = set()  # asked for as early or earlier: not to be evicted
        before: list[_Adapter] = []  # still being read: the room for them is not given away
        for ask in self._asks.values():
            kept.update(adapter.digest for adapter in ask.adapters)
            for adapter in ask.adapters:
                if not _is_missing(adapter) or adapter in before:
                    continue
                before.append(adapter)
                if adapter.host is None or adapter.stage == "leaving":
                    continue
                coming = [adapter.need for adapter in before]
                victims = self._slots.victims(coming, self._idle(kept, now))
                if victims is None and earlier is not None and now > ask.since + self._patience:
                    victims = self._drain(coming, kept, earlier, now)
                if victims is None:
                    ends = (ask.since + self._patience, *(t + _GRACE for t in self._draining.values()))
                    self._drains_at = min((end for end in ends if end >= now), default=now)
                    return
                before.remove(adapter)
                self._load(adapter, victims)

    def _attached(self) -> list[_Adapter]:
        return [a for digest in self._slots.held if (a := self._adapters[digest]).stage == "slot"]

    def _idle(self, kept: Collection[str], now: float) -> list[str]:
        """What may be evicted: nobody holds it, and nobody asks for it or it is drained."""
        asked = {adapter for ask in self._asks.values() for adapter in ask.adapters}
        idle = [a for a in self._attached() if a not in asked or a.digest in self._draining]
        return [a.digest for a in idle if a.digest not in kept and not a.pinned and self._is_done(a, now)]

    def _is_done(self, adapter: _Adapter, now: float) -> bool:
        since = self._draining.get(adapter.digest, -math.inf)
        return adapter.holders == 0 and now > since + _GRACE

    def _drain(
        self, coming: Sequence[int], kept: Collection[str], earlier: Mapping[str, float], now: float
    ) -> list[str] | None:
        """Make room whoever asks for what has it or holds it: the lowest drain, and once they are done they are
        returned."""
        among = [a.digest for a in self._attached() if a.digest not in kept and not a.pinned]
        victims = self._slots.victims(coming, among) or []
        self._draining = {digest: earlier.get(digest, now) for digest in victims}
        done = all(self._is_done(self._adapters[digest], now) for digest in victims)
        return victims if victims and done else None

    def _load(self, adapter: _Adapter, victims: Sequence[str]) -> None:
        """Give `adapter` the slots of `victims`, and the rest to a loader thread, which detaches before it attaches."""
        leaving = [self._adapters[digest] for digest in victims]
        for victim in leaving:
            victim.stage = "leaving"
            self._draining.pop(victim.digest, None)
            self._slots.drop(victim.digest, evicted=True)
        adapter.stage = "loading"
        self._slots.put(adapter.digest, adapter.need)
        self._submit(self._attach, adapter, leaving)

    def _leave(self, adapter: _Adapter) -> None:
        """Out of its slot, for another reason than room for others."""
        adapter.stage = "leaving"
        self._draining.pop(adapter.digest, None)
        self._submit(self._take_out, adapter)

    def _leave_if_forgotten(self, adapter: _Adapter) -> None:
        if not adapter.forgotten or adapter.holders:
            return
        if adapter.stage == "slot":
            self._leave(adapter)
        elif adapter.stage == "out" and not adapter.reading:
            if adapter.host is not None:
                self._drop_copy(adapter)
            self._adapters.pop(adapter.digest, None)

    def _read_ahead(self, missing: Sequence[_Adapter]) -> None:
        """Begin to read what is missing, in order, as far as host memory goes; one at least, whatever its size."""
        held = [self._adapters[digest] for digest in self._host.held]
        kept = {adapter for adapter in held if adapter.reading or adapter.stage == "loading"}
        for place, adapter in enumerate(missing):
            if adapter.digest not in self._host.held:
                if kept and sum(a.host_size for a in (*kept, adapter)) > self._host.size:
                    return
                self._trim_host(adapter.host_size, missing[:place], missing[place + 1 :])
                self._read(adapter)
            kept.add(adapter)

    def _read(self, adapter: _Adapter) -> None:
        adapter.reading = True
        self._host.put(adapter.digest, adapter.host_size)
        self._submit(self._read_in, adapter)

    def _trim_host(self, coming: int, before: Collection[_Adapter], after: Sequence[_Adapter]) -> None:
        """Drop copies until `coming` bytes fit: first those that no load is about to use, then those loaded later."""
        if not self._host.lacks([coming]):
            return
        copies = [
            a for digest in self._host.held if (a := self._adapters[digest]).host and a.stage != "loading"
        ]
        unused = [a.digest for a in copies if a not in before and a not in after]
        later = [a.digest for a in reversed(after) if a in copies]
        for digest in (*self._host.order(unused), *later):
            if not self._host.lacks([coming]):
                return
            self._drop_copy(self._adapters[digest], evicted=True)

    def _drop_copy(self, adapter: _Adapter, *, evicted: bool = False) -> None:
        adapter.host = None
        self._host.drop(adapter.digest, evicted=evicted)

    def _submit(self, job: Callable[..., None], adapter: _Adapter, *args: object) -> None:
        if not self._closed:
            self._threads.submit(self._run, job, adapter, *args)

    # The loader threads' jobs: they take the lock themselves.

    def _run(self, job: Callable[..., None], adapter: _Adapter, *args: object) -> None:
        """Do a job on `adapter`, keep what it raised, go on with the asks, and tell the engine."""
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
            self._advance()
        for callback in self._callbacks:
            callback()

    def _fail(self, adapter: _Adapter, error: Exception) -> None:
        adapter.failure, adapter.failed = error, self._clock()
        adapter.stage = "out"
        if adapter.digest in self._slots.held:
            self._slots.drop(adapter.digest)
        self._drop_asks_for(adapter)

    def _read_in(self, adapter: _Adapter) -> None:
        copy = None
        try:
            copy = HostCopy.load(adapter.artifact, self._adapted.base.device)
        finally:
            with self._lock:
                adapter.reading = False
                if copy is None:
                    self._host.drop(adapter.digest)
                else:
                    adapter.host = copy
                    self._host.put(adapter.digest, copy.host_bytes)
                    self._host.use(adapter.digest)
                    if not adapter.measured:
                        adapter.need = copy.slot_bytes(self._adapted.base.dtype)

    def _attach(self, adapter: _Adapter, leaving: Sequence[_Adapter]) -> None:
        for victim in leaving:
            self._take_out(victim)
        assert adapter.host is not None
        attach_from(adapter.host, self._adapted)
        size = attached_bytes(adapter.digest, self._adapted)
        with self._lock:
            adapter.need, adapter.measured, adapter.stage = size, True, "slot"
            self._slots.put(adapter.digest, size)
            self._slots.use(adapter.digest)
            self._host.use(adapter.digest)
            if self._slots.lacks([]):  # binding took more than its tensors: again, now that its size is known
                self._leave(adapter)

    def _take_out(self, adapter: _Adapter) -> None:
        with suppress(AdapterNotFound):  # gone already is as good
            self._adapted.detach(adapter.digest)
        with self._lock:
            adapter.stage = "out"
            if adapter.digest in self._slots.held:
                self._slots.drop(adapter.digest)
            self._leave_if_forgotten(adapter)


def _key(digests: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted({*digests}))


def _is_missing(adapter: _Adapter) -> bool:
    return adapter.stage in {"out", "leaving"} and adapter.failure is None


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
