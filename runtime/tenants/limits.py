"""Token buckets: what may pass a minute, and exactly when the next may.

A bucket holds a minute's allowance and fills evenly, so that after any quiet minute a whole one may come at once, and over
any time T no more than one allowance and T's share pass. Does not know tenants or the clock: callers say what time it is.
"""

from __future__ import annotations

PERIOD = 60.0
"""Seconds in which an empty bucket fills."""

_SLACK = 1e-6  # seconds: what rounding may cost somebody who waited exactly as long as told


class Bucket:
    """One bucket, full at first. `capacity`: what it holds, above 0. Not thread-safe.

    Times are seconds on any clock that does not go back.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._full_at = float("-inf")  # when it would be full again

    @property
    def capacity(self) -> int:
        return self._capacity

    def resize(self, capacity: int, now: float) -> None:
        """Hold another amount from now on; what was taken stays taken."""
        taken = self._taken(now)
        self._capacity = capacity
        self._full_at = now + taken * PERIOD / capacity

    def level(self, now: float) -> float:
        """What is in it; below 0 after more was used than was taken."""
        return self._capacity - self._taken(now)

    def until_full(self, now: float) -> float:
        """Seconds until it is full, if nothing is taken."""
        return max(0.0, self._full_at - now)

    def wait(self, amount: int, now: float) -> float:
        """Seconds until `amount` may be taken, 0 for now. `amount` is at most the capacity."""
        lacking = self._taken(now) + amount - self._capacity
        seconds = lacking * PERIOD / self._capacity
        return seconds if seconds > _SLACK else 0.0

    def take(self, amount: int, now: float) -> None:
        """Take `amount` out; a negative one puts back what was not used. Callers ask `wait` first."""
        self._full_at = max(self._full_at, now) + amount * PERIOD / self._capacity

    def _taken(self, now: float) -> float:
        return max(0.0, self._full_at - now) * self._capacity / PERIOD
