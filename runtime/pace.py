"""How long a step takes: learned from those before it, as a fixed part and one for every token.

What a step costs depends on machine, base, adapters and how many tokens it computes: a processor needs seconds for what a
GPU does in milliseconds. A straight line through the latest steps, older ones counting less and less, says how many tokens
fit into a given time. While all are of one size they do not tell the two parts apart: tokens are then taken to cost all
that is not known otherwise. Does not decide what runs.
"""

from __future__ import annotations

import math

_KEPT = 0.9  # what a step counts for after the next one
_SPREAD = 0.1  # of the mean: sizes that differ less say nothing about what a token costs


class Pace:
    """The steps seen so far. Knows nothing at first: everything fits."""

    def __init__(self) -> None:
        self._steps = 0.0
        self._tokens = 0.0  # sums, by age
        self._seconds = 0.0
        self._tokens_squared = 0.0
        self._products = 0.0
        self._slope = math.inf  # seconds for one token more, as far as steps of different sizes told

    def seen(self, tokens: int, seconds: float) -> None:
        """A step computed so many tokens, at least one, in that time."""
        self._steps = _KEPT * self._steps + 1
        self._tokens = _KEPT * self._tokens + tokens
        self._seconds = _KEPT * self._seconds + seconds
        self._tokens_squared = _KEPT * self._tokens_squared + tokens * tokens
        self._products = _KEPT * self._products + tokens * seconds
        mean = self._tokens / self._steps
        spread = self._tokens_squared / self._steps - mean * mean
        if spread > (_SPREAD * mean) ** 2:
            slope = (self._products / self._steps - mean * self._seconds / self._steps) / spread
            self._slope = (
                slope if slope > 0 else math.inf
            )  # below 0: other things than size made the difference

    def tokens(self, seconds: float) -> float:
        """How many a step computes in that time: infinitely many before any was seen, none where it takes longer for any."""
        if not self._seconds:
            return math.inf
        per_token, fixed = self._line()
        return max(0.0, (seconds - fixed) / per_token)

    @property
    def fixed_tokens(self) -> float:
        """How many tokens cost as much as the fixed part."""
        if not self._seconds:
            return 0.0
        per_token, fixed = self._line()
        return fixed / per_token

    def _line(self) -> tuple[float, float]:
        """Seconds a token, and those that are fixed: not below 0, which bounds what a token may cost."""
        per_token = min(self._slope, self._seconds / self._tokens)
        return per_token, max(0.0, self._seconds - per_token * self._tokens) / self._steps
