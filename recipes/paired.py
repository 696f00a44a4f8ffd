"""Two models on the same examples: the difference of every metric, with a paired bootstrap interval and a p-value.

Each resample of examples is one and the same for both (Efron and Tibshirani 1993, chapters 13 and 16; Koehn 2004 for corpus
metrics), so what is hard about an example cancels out. Where few examples tell the two apart a bootstrap is too sure: four
to none of a hundred would do. A verdict therefore asks a randomisation test too (Fisher 1935; Noreen 1989; Dror et al. 2018
for language), which exchanges the two models' answers example by example: of answers that are right or wrong it is the exact
sign test on those on which the two differ (McNemar's). Does not measure models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from adapthub.adapters.metric_direction import lower_is_better
from adapthub.recipes.metrics import Measured, resampled

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESAMPLES = 2000
_LEVEL = 0.05
_ALL_EXCHANGES = 11  # so many examples that differ have about as many exchanges: all are looked at
_ALIKE = 1e-9  # differences that are equal but for rounding
_AT_ONCE = 50


@dataclass(frozen=True)
class Difference:
    """A metric of two models on the same `n` examples. `difference` is the second's value less the first's, with its 95 %
    interval; `p`: two-sided, of a difference so far from 0 if there were none, the larger of bootstrap's and exchanges'.
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
        """Whether the interval leaves 0 out, and p is below 0.05: resamples of few that differ are too much alike."""
        return self.p < _LEVEL and (self.low > 0 or self.high < 0)


def differences(
    first: Measured, second: Measured, *, seed: int = 0, groups: NDArray[np.int64] | None = None
) -> dict[str, Difference]:
    """Every metric that both have, the second's against the first's; row i of both is the same example. Examples of one of
    `groups` (metrics.resampled) are resampled and exchanged together.

    The interval is the percentile bootstrap's (2.5 % to 97.5 % of RESAMPLES differences). p is twice the smaller share of
    resamples in which the difference is not on its side of 0, or the share of exchanges in which it is as far from 0, if
    that is larger: of all exchanges where few examples differ, else of RESAMPLES. Drawn ones count the sample itself.
    """
    values, others = first.values(), second.values()
    names = [name for name in values if name in others]
    both = first.beside(second)
    drawn: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
    for weights in _resamples(first.n, seed, groups):
        before, after = first.under(weights), second.under(weights)
        for name in names:
            drawn[name].append(after[name] - before[name])
    units = np.arange(first.n) if groups is None else groups
    differ = np.bincount(units, first.differs(second)) > 0
    exchanged: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
    for swaps in (some[:, units] for some in _exchanges(differ, seed)):
        before, after = (both.under(np.hstack(each)) for each in ((1 - swaps, swaps), (swaps, 1 - swaps)))
        for name in names:
            exchanged[name].append(after[name] - before[name])
    return {
        name: _difference(
            values[name],
            others[name],
            np.concatenate(drawn[name]),
            _as_far(others[name] - values[name], np.concatenate(exchanged[name]), whole=_few(differ)),
            first.n_of(name),
        )
        for name in names
    }


def better(metric: str, difference: Difference) -> int:
    """1 where the first is clearly better, 2 where the second is, 0 where the data cannot tell."""
    if not difference.clear:
        return 0
    return 2 if (difference.difference > 0) != lower_is_better(metric) else 1


def _resamples(n: int, seed: int, groups: NDArray[np.int64] | None) -> Iterator[NDArray[np.float64]]:
    """How often each example is drawn [some resamples, n], RESAMPLES rows in all."""
    generator = np.random.default_rng(seed)
    for _ in range(0, RESAMPLES, _AT_ONCE):
        yield np.stack([resampled(n, generator, groups) for _ in range(_AT_ONCE)])


def _few(differ: NDArray[np.bool_]) -> bool:
    return int(differ.sum()) <= _ALL_EXCHANGES


def _exchanges(differ: NDArray[np.bool_], seed: int) -> Iterator[NDArray[np.float64]]:
    """Which examples' answers (or groups') are exchanged, of those that differ [some exchanges, n]: all ways where they are
    few, the one without any included, else RESAMPLES that are drawn."""
    places = np.flatnonzero(differ)
    generator = np.random.default_rng((seed, 1))  # apart from the resamples' draws
    ways = 2 ** len(places) if _few(differ) else RESAMPLES
    for start in range(0, ways, _AT_ONCE):
        some = np.arange(start, min(start + _AT_ONCE, ways))
        swaps = np.zeros((len(some), len(differ)))
        if _few(differ):
            swaps[:, places] = (some[:, None] >> np.arange(len(places))) & 1
        else:
            swaps[:, places] = generator.integers(2, size=(len(some), len(places)))
        yield swaps


def _as_far(difference: float, exchanged: NDArray[np.float64], *, whole: bool) -> float:
    """The share of exchanges with a difference as far from 0; `whole`: they are all that there are."""
    exchanged = exchanged[~np.isnan(exchanged)]
    far = float((np.abs(exchanged) >= abs(difference) - _ALIKE).sum())
    return far / len(exchanged) if whole else (1 + far) / (1 + len(exchanged))


def _difference(first: float, second: float, drawn: NDArray[np.float64], as_far: float, n: int) -> Difference:
    drawn = drawn[~np.isnan(drawn)]  # resamples in which the metric is not defined
    low, high = np.quantile(drawn, (0.025, 0.975))
    sides = min((drawn <= 0).sum(), (drawn >= 0).sum())
    p = min(1.0, max(2 * (1 + float(sides)) / (1 + len(drawn)), as_far))
    return Difference(first, second, second - first, float(low), float(high), p, n)
