"""The events of one request as they come, for a caller that waits and for an event loop.

Does not know how they come about: given what submits the request and what cancels it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from weakref import WeakKeyDictionary, ref

from adapthub.adapters.errors import InvalidInput
from adapthub.runtime.requests import Event, Generation, generation

# Queues a request whose events come to what it is given, and returns the request's id.
Submit = Callable[[Callable[[Event], None]], str]


class Stream:
    """The events of one request as they come, for a caller that waits: iterate, or take the `result`. Behind the last
    event both raise the error that the request ended with.

    Leaving the iteration early cancels the request, and so does leaving a `with` block.
    """

    def __init__(self, submit: Submit, cancel: Callable[[str], None]) -> None:
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._cancel = cancel
        self._seen: list[Event] = []
        self.id = submit(self._events.put)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def __iter__(self) -> Iterator[Event]:
        with self:
            while not self._ended:
                yield self._next()
        if (error := self._seen[-1].error) is not None:
            raise error

    def result(self) -> Generation:
        """Everything, once the request has ended. Raises the error that it ended with."""
        self.ended_within(None)
        return generation(self._seen)

    def ended_within(self, seconds: float | None) -> bool:
        """Whether the request has ended; waits for that, at most so long where a time is given."""
        last = None if seconds is None else time.monotonic() + seconds
        while not self._ended:
            try:
                left = None if last is None else max(0.0, last - time.monotonic())
                self._seen.append(self._events.get(timeout=left))
            except Empty:
                return False
        return True

    def leave(self) -> None:
        """Cancel the request if it has not ended: nobody reads on."""
        if not self._ended:
            with suppress(InvalidInput):  # it ended, and nobody has read so far
                self.cancel()

    def cancel(self) -> None:
        """End the request; its last event says "cancelled". Raises InvalidInput if it has ended."""
        self._cancel(self.id)

    @property
    def _ended(self) -> bool:
        return bool(self._seen) and self._seen[-1].finish_reason is not None

    def _next(self) -> Event:
        event = self._events.get()
        self._seen.append(event)
        return event


class AsyncStream:
    """The same on an event loop: `async for event in stream`, or `await stream.result()`.

    A task that is cancelled while it waits cancels the request. Made by `open`.
    """

    def __init__(self, cancel: Callable[[str], None]) -> None:
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._cancel = cancel
        self._seen: list[Event] = []
        self.id = ""

    @classmethod
    async def open(cls, submit: Submit, cancel: Callable[[str], None]) -> AsyncStream:
        """Submit, on another thread: a name may have to be pulled and loaded first."""
        stream = cls(cancel)
        deliver = partial(_delivery(asyncio.get_running_loop()).put, stream._events)
        left = threading.Event()

        def submit_unless_left() -> None:
            stream.id = submit(deliver)
            if left.is_set():
                stream.leave()

        try:
            await asyncio.to_thread(submit_unless_left)
        except asyncio.CancelledError:  # the thread goes on: whoever comes second sees what the first did
            left.set()
            stream.leave()
            raise
        return stream

    async def __aiter__(self) -> AsyncIterator[Event]:
        try:
            while not self._ended:
                yield await self._next()
        finally:
            self.leave()
        if (error := self._seen[-1].error) is not None:
            raise error

    async def batch(self) -> list[Event]:
        """What has come since the last event that was read, at least one: waits for it. Not to be called after the last.

        Does not raise the error that the request ended with, nor cancel the request if the caller is cancelled.
        """
        events = [await self._next()]
        while not self._events.empty():
            events.append(await self._next())
        return events

    async def result(self) -> Generation:
        """Everything, once the request has ended. Raises the error that it ended with."""
        async for _ in self:
            pass
        return generation(self._seen)

    async def ended_within(self, seconds: float | None) -> bool:
        """Whether the request has ended; waits for that, at most so long where a time is given."""
        try:
            async with asyncio.timeout(seconds):
                while not self._ended:
                    await self._next()
        except TimeoutError:
            return False
        return True

    def leave(self) -> None:
        """Cancel the request if it has not ended: nobody reads on."""
        if self.id and not self._ended:
            with suppress(InvalidInput):  # it ended, and nobody has read so far
                self.cancel()

    def cancel(self) -> None:
        """End the request; its last event says "cancelled". Raises InvalidInput if it has ended."""
        self._cancel(self.id)

    @property
    def last(self) -> Event | None:
        """The latest event that was read."""
        return self._seen[-1] if self._seen else None

    @property
    def _ended(self) -> bool:
        return bool(self._seen) and self._seen[-1].finish_reason is not None

    async def _next(self) -> Event:
        event = await self._events.get()
        self._seen.append(event)
        return event


class _Delivery:
    """Events for all streams of one event loop: those of one step of the engine wake it once, not once each."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = ref(loop)
        self._events: deque[tuple[asyncio.Queue[Event], Event]] = deque()
        self._woken = False

    def put(self, events: asyncio.Queue[Event], event: Event) -> None:
        """From any thread. An event is there before it is looked whether the loop was woken, and that is forgotten before
        the events are taken: none is left behind."""
        self._events.append((events, event))
        loop = self._loop()
        if self._woken or loop is None:
            return
        self._woken = True
        with suppress(RuntimeError):  # the loop was closed: nobody listens any more
            loop.call_soon_threadsafe(self._hand_out)

    def _hand_out(self) -> None:
        self._woken = False
        while self._events:
            events, event = self._events.popleft()
            events.put_nowait(event)


_DELIVERIES: WeakKeyDictionary[asyncio.AbstractEventLoop, _Delivery] = WeakKeyDictionary()


def _delivery(loop: asyncio.AbstractEventLoop) -> _Delivery:
    """That of a loop, which asks for it itself."""
    if loop not in _DELIVERIES:
        _DELIVERIES[loop] = _Delivery(loop)
    return _DELIVERIES[loop]
