"""What other threads ask of the engine, until the thread that steps takes it in: requests, and cancellations by id.

Knows which ids are in use, and refuses all once closed. Does not check what a request asks for, or queue it fairly.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator

from adapthub.adapters.errors import AdaptHubError, InvalidInput
from adapthub.runtime.requests import Request


class Inbox:
    """Thread-safe. An id is in use from `put` until `ended`."""

    def __init__(self) -> None:
        self._asked: deque[Request | str] = deque()
        self._known: set[str] = set()
        self._closed: AdaptHubError | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """What was not taken yet."""
        return len(self._asked)

    def put(self, request: Request) -> None:
        """Raises InvalidInput for an id that is in use; what `close` was given once that was called."""
        with self._lock:
            if self._closed is not None:
                raise self._closed
            if request.id in self._known:
                raise InvalidInput(f"a request {request.id!r} runs already", hint="Choose another id.")
            self._known.add(request.id)
            self._asked.append(request)

    def cancel(self, id: str) -> None:
        """Raises InvalidInput for a request that has ended or never was."""
        with self._lock:
            if id not in self._known:
                raise InvalidInput(f"no request {id!r} runs or waits: it has ended, or never was")
            self._asked.append(id)

    def take(self) -> Iterator[Request | str]:
        """Requests and the ids of cancelled ones, in order, those included that come meanwhile."""
        while self._asked:
            yield self._asked.popleft()

    def ended(self, id: str) -> None:
        """Another request may have this id now."""
        with self._lock:
            self._known.discard(id)

    def close(self, error: AdaptHubError) -> None:
        """Take no more: `put` raises `error`."""
        with self._lock:
            self._closed = error
