"""Which of the things kept goes first: GreedyDual-Size-Frequency (Cherkasova, "Improving WWW Proxies Performance with
Greedy-Dual-Size-Frequency Caching Policy", HP Laboratories 1998).

A key's score is inflation + uses / size, set when it is used; inflation is the score of what was evicted last. So what is
used often and small stays, and what was not used for long falls behind all that is used now.

Does not keep or evict anything: its owner does, and says so.
"""

from __future__ import annotations

from collections.abc import Iterable


class GreedyDual:
    """Scores of the keys that one tier keeps. Not thread-safe."""

    def __init__(self) -> None:
        self._inflation = 0.0
        self._uses: dict[str, int] = {}  # while kept
        self._scores: dict[str, float] = {}

    def use(self, key: str, size: float) -> None:
        """`key` is used, or kept from now on; `size` > 0 in whatever the tier is short of."""
        self._uses[key] = self._uses.get(key, 0) + 1
        self._scores[key] = self._inflation + self._uses[key] / size

    def drop(self, key: str, *, evicted: bool) -> None:
        """`key` is no longer kept: evicted for want of room, or gone for another reason."""
        del self._uses[key]
        score = self._scores.pop(key)
        if evicted:
            self._inflation = max(self._inflation, score)

    def order(self, keys: Iterable[str]) -> list[str]:
        """The keys, the first to go first. All must be kept."""
        return sorted(keys, key=self._scores.__getitem__)
