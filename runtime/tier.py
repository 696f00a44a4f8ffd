"""A bounded place for adapters, slots or host memory: what it holds, whether more fits, and what goes first.

What goes first is GreedyDual-Size-Frequency's choice (Cherkasova, "Improving WWW Proxies Performance with
Greedy-Dual-Size-Frequency Caching Policy", HP Laboratories 1998): a key's score is inflation + uses / size, set when it is
used; inflation is the score of what was evicted last. So what is small and used often stays, and what was not used for
long falls behind all that is used now. Where bytes are not bounded every key has size 1.

Does not move anything: its owner does, and says so. Not thread-safe.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence


class Tier:
    """Keys and their bytes, within `count` keys and `size` bytes (None: no bound). Its owner asks before it puts."""

    def __init__(self, count: int | None, size: int | None) -> None:
        self.count = math.inf if count is None else count
        self.size = math.inf if size is None else size
        self.held: dict[str, int] = {}
        self.used = 0  # bytes
        self._uses: dict[str, int] = {}
        self._scores: dict[str, float] = {}
        self._inflation = 0.0

    def put(self, key: str, size: int) -> None:
        """`key` takes up `size` bytes from now on; another size for a key that is here changes it."""
        self.used += size - self.held.get(key, 0)
        self.held[key] = size

    def use(self, key: str) -> None:
        """`key`, which is here, is used."""
        size = 1 if math.isinf(self.size) else max(self.held[key], 1)
        self._uses[key] = self._uses.get(key, 0) + 1
        self._scores[key] = self._inflation + self._uses[key] / size

    def drop(self, key: str, *, evicted: bool = False) -> None:
        """`key` leaves: evicted for want of room, or for another reason."""
        self.used -= self.held.pop(key)
        self._uses.pop(key, None)
        score = self._scores.pop(key, 0.0)
        if evicted:
            self._inflation = max(self._inflation, score)

    def lacks(self, coming: Sequence[int], leaving: Collection[str] = ()) -> bool:
        """Whether keys of these bytes do not fit once `leaving` are gone."""
        count = len(self.held) - len(leaving) + len(coming)
        used = self.used - sum(self.held[key] for key in leaving) + sum(coming)
        return count > self.count or used > self.size

    def order(self, keys: Iterable[str]) -> list[str]:
        """The keys, the first to go first."""
        return sorted(keys, key=lambda key: self._scores.get(key, 0.0))

    def victims(self, coming: Sequence[int], among: Iterable[str]) -> list[str] | None:
        """The first to go, as many as make room for keys of these bytes; None where all of `among` do not."""
        chosen: list[str] = []
        if not self.lacks(coming):
            return chosen
        for key in self.order(among):
            chosen.append(key)
            if not self.lacks(coming, chosen):
                return chosen
        return None
