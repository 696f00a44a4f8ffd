"""Two models on the same examples: the difference of every metric, with a paired bootstrap interval and p-value.

Each resample of examples is one and the same for both (Efron and Tibshirani 1993, chapters 13 and 16; Koehn 2004 for corpus
metrics), so what is hard about an example cancels out. Does not measure models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from adapthub.adapters.metric_direction import lower_is_better
from adapthub.recipes.metrics import Measured

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESAMPLES = 2000
# Were there no difference, n examples would all speak for one side in 2 of 2**n cases: of fewer, one in twenty or more.
_FEWEST = 6
_AT_ONCE = 50


@dataclass(frozen=True)
class Difference:
    """A metric of two models on the same `n` examples. `difference` is the second's value less the first's, with its 95 %
    interval; `p`: two-sided, of a difference so far from 0 if there were none; at least 2 ** (1 - n), which is what n
    examples tell that all speak for one side.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    n: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves 0 out, and the examples are enough to say so: resamples of one are all the same."""
        return self.n >= _FEWEST and (self.low > 0 or self.high < 0)


def differences(first: Measured, second: Measured, *, seed: int = 0) -> dict[str, Difference]:
    """Every metric that both have, the second's against the first's; row i of both is the same example.

    The interval is the percentile bootstrap's (2.5 % to 97.5 % of RESAMPLES differences); p is twice the smaller share of
    resamples in which the difference is not on its side of 0, counting the sample itself.
    """
    values, others = first.values(), second.values()
    n = first.n
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in values if name in others}
    for weights in _resamples(n, seed):
        before, after = first.under(weights), second.under(weights)
        for name, parts in found.items():
            parts.append(after[name] - before[name])
    return {
        name: _difference(values[name], others[name], np.concatenate(parts), first.n_of(name))
        for name, parts in found.items()
    }


def better(metric: str, difference: Difference) -> int:
    """1 where the first is clearly better, 2 where the second is, 0 where the data cannot tell."""
    if not difference.clear:
        return 0
    return 2 if (difference.difference > 0) != lower_is_better(metric) else 1


def _resamples(n: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each example is drawn [some resamples, n], RESAMPLES rows in all."""
    generator = np.random.default_rng(seed)
    for _ in range(0, RESAMPLES, _AT_ONCE):
        drawn = generator.integers(n, size=(_AT_ONCE, n))
        yield np.stack([np.bincount(row, minlength=n) for row in drawn]).astype(np.float64)


def _difference(first: float, second: float, drawn: NDArray[np.float64], n: int) -> Difference:
    drawn = drawn[~np.isnan(drawn)]  # resamples in which the metric is not defined
    low, high = np.quantile(drawn, (0.025, 0.975))
    sides = min((drawn <= 0).sum(), (drawn >= 0).sum())
    p = min(1.0, max(2 * (1 + float(sides)) / (1 + len(drawn)), 2.0 ** (1 - n)))
    return Difference(first, second, second - first, float(low), float(high), p, n)
