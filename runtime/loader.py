"""Threads that read adapters into host memory, attach them to the base and detach them: nobody else waits for that.

Does as it is told, and says what came of it. Does not decide what is loaded or evicted, or keep what failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

from adapthub.adapters.errors import AdapterNotFound
from adapthub.adapters.memory import memory_errors
from adapthub.runtime.host_copy import HostCopy, attach_from, attached_bytes, own_storages
from adapthub.runtime.registered import Registered

if TYPE_CHECKING:
    from adapthub.adapters.attach import AdaptedBase


class Loader:
    """Jobs on adapters of one base, on `threads` threads.

    `read`, `attach`, `detach` and `close` return at once; whoever calls them does so one at a time. What came of a job is
    told on its thread: `was_read` (the copy, or None where that failed), `was_attached` (and its bytes), `was_detached`, and
    behind those of one job `ended`, with what it raised and the seconds that it took.
    """

    def __init__(
        self,
        adapted: AdaptedBase,
        threads: int,
        *,
        was_read: Callable[[Registered, HostCopy | None], None],
        was_attached: Callable[[Registered, int], None],
        was_detached: Callable[[Registered], None],
        ended: Callable[[Registered, Exception | None, float], None],
    ) -> None:
        self._adapted = adapted
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="adapthub-loader")
        self._was_read = was_read
        self._was_attached = was_attached
        self._was_detached = was_detached
        self._ended = ended
        self.closed = False

    @cached_property
    def _own(self) -> frozenset[int]:
        return own_storages(self._adapted)

    def read(self, adapter: Registered) -> None:
        self._submit(self._read, adapter)

    def attach(self, adapter: Registered, leaving: Sequence[Registered]) -> None:
        """Detach those that leave for it, and attach it from its copy."""
        self._submit(self._attach, adapter, leaving)

    def detach(self, adapter: Registered) -> None:
        self._submit(self._detach, adapter)

    def close(self) -> None:
        """Begin no more jobs."""
        self.closed = True

    def join(self) -> None:
        """Wait for the jobs that run, once closed, and end the threads. Idempotent."""
        self._threads.shutdown(cancel_futures=True)

    def _submit(self, job: Callable[..., None], adapter: Registered, *args: object) -> None:
        if not self.closed:
            self._threads.submit(self._run, job, adapter, *args)

    def _run(self, job: Callable[..., None], adapter: Registered, *args: object) -> None:
        failure: Exception | None = None
        begun = time.perf_counter()
        try:
            with memory_errors(f"loading adapter {adapter.digest[:19]}", "Give the runtime fewer slots."):
                job(adapter, *args)
        except Exception as error:  # whatever a stranger's file can cause
            failure = error
        self._ended(adapter, failure, time.perf_counter() - begun)

    def _read(self, adapter: Registered) -> None:
        copy, base = None, self._adapted.base
        try:
            copy = HostCopy.load(adapter.artifact, base.device, base.dtype)
        finally:
            self._was_read(adapter, copy)

    def _attach(self, adapter: Registered, leaving: Sequence[Registered]) -> None:
        for victim in leaving:
            self._detach(victim)
        assert adapter.host is not None
        attach_from(adapter.host, self._adapted)
        known = adapter.need if adapter.measured else None  # of the same tensors, under the same modules
        size = attached_bytes(adapter.digest, self._adapted, self._own) if known is None else known
        self._was_attached(adapter, size)

    def _detach(self, adapter: Registered) -> None:
        with suppress(AdapterNotFound):  # gone already is as good
            self._adapted.detach(adapter.digest)
        self._was_detached(adapter)
