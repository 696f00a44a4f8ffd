"""What was read off bytes, by their sha256, remembered: off headers, an adapter's small files, structures.

Every commit and every page looks at all weights of a tree, and most of them were looked at before. Bounded. Reads nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """The values that were asked for last, as many of them as take `most` bytes, which `size` estimates. For all threads."""

    def __init__(self, most: int, size: Callable[[Value], int]) -> None:
        self._most = most
        self._size = size
        self._kept: OrderedDict[str, Value] = OrderedDict()
        self._held = 0
        self._lock = Lock()

    def get(self, key: str) -> Value | None:
        """What was put there last, if it is still known."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: str, value: Value) -> None:
        """Remember it, in place of what was not asked for the longest."""
        with self._lock:
            if key in self._kept:
                return
            self._kept[key] = value
            self._held += self._size(value)
            while self._held > self._most:
                _, gone = self._kept.popitem(last=False)
                self._held -= self._size(gone)
