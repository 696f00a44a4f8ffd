"""Metrics from counts an example: point values, and bootstrap intervals over examples.

Entities are those that seqeval finds: as CoNLL's own script for BIO, strictly for all others. F1 and
accuracy are defined as in seqeval and scikit-learn, over sums of counts, so that a resample is one addition.
Does not read data or run models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np

from adapthub.recipes.data.schemes import Scheme

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]
    Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    """A metric's value, its 95 % interval, and the number of examples it was measured on."""

    value: float
    low: float
    high: float
    n: int


class Measured(Protocol):
    """What each of `n` examples adds to the metrics, so that they can be resampled."""

    @property
    def n(self) -> int: ...

    def values(self) -> dict[str, float]:
        """Every metric over all examples."""
        ...

    def estimates(
        self, *, seed: int = 0, resamples: int = 1000, groups: Ints | None = None
    ) -> dict[str, Estimate]:
        """Every metric with its percentile bootstrap interval (2.5 % to 97.5 %), resampling examples, or whole `groups` of
        them: see resampled."""
        ...

    def under(self, weights: Floats) -> dict[str, Floats]:
        """Every metric [draws] where example i counts `weights[draw, i]` times; NaN where it is not defined."""
        ...

    def n_of(self, metric: str) -> int:
        """How many examples a metric is of: `n`, or fewer."""
        ...

    def beside(self, other: Self) -> Self:
        """The examples of both, those of `other` (another model on the same ones) after its own: [2 n]."""
        ...

    def differs(self, other: Self) -> Flags:
        """Which examples [n] add something else in `other`, another model on the same ones."""
        ...


@dataclass(frozen=True)
class Statistics:
    """What each example adds to the metrics.

    `counts`: float64 [examples, k]. `summarise` maps sums of counts [..., k] to named metrics [...], so that
    a resample of examples, or a paired comparison of two models on them, needs only sums; NaN where they define none.
    `some`: how many examples a metric is of, where that is not all.
    """

    counts: Floats
    summarise: Callable[[Floats], dict[str, Floats]]
    some: Mapping[str, int] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """How many examples there are."""
        return len(self.counts)

    def values(self) -> dict[str, float]:
        """Every metric over all examples."""
        return {name: float(value) for name, value in self.summarise(self.counts.sum(axis=0)).items()}

    def under(self, weights: Floats) -> dict[str, Floats]:
        """Every metric [r] where example i counts `weights[r, i]` times."""
        return self.summarise(weights @ self.counts)

    def n_of(self, metric: str) -> int:
        """How many examples a metric is of."""
        return self.some.get(metric, self.n)

    def beside(self, other: Self) -> Self:
        """The examples of both, those of `other` after its own; of metrics that both have."""
        mine, others = self._shared(other)
        fewer = self if self.counts.shape[1] <= other.counts.shape[1] else other
        return replace(fewer, counts=np.concatenate([mine, others]))

    def differs(self, other: Self) -> Flags:
        """Which examples [n] add something else in `other`, to metrics that both have."""
        mine, others = self._shared(other)
        return np.asarray((mine != others).any(axis=1))

    def _shared(self, other: Self) -> tuple[Floats, Floats]:
        """Counts of what both have: where one has less, as without losses, it has the first of the other's."""
        width = min(self.counts.shape[1], other.counts.shape[1])
        return self.counts[:, :width], other.counts[:, :width]

    def estimates(
        self, *, seed: int = 0, resamples: int = 1000, groups: Ints | None = None
    ) -> dict[str, Estimate]:
        """Every metric with its percentile bootstrap interval (2.5 % to 97.5 %), resampling examples or `groups`."""
        generator = np.random.default_rng(seed)
        sums = np.empty((resamples, self.counts.shape[1]))
        for resample in range(resamples):
            sums[resample] = resampled(self.n, generator, groups) @ self.counts
        intervals = {
            name: np.nanquantile(values, (0.025, 0.975)) for name, values in self.summarise(sums).items()
        }
        return {
            name: Estimate(value, float(intervals[name][0]), float(intervals[name][1]), self.n_of(name))
            for name, value in self.values().items()
        }


def resampled(n: int, generator: np.random.Generator, groups: Ints | None = None) -> Floats:
    """How often each of `n` examples is in one resample, float64 [n].

    `groups` [n], from 0: which examples belong together, as pictures of one patient do. Then as many groups as there are
    are drawn, each with all of its examples (the cluster bootstrap, Davison and Hinkley 1997, sec. 3.8): what examples of a
    group have in common makes them say less than as many that stand alone.
    """
    count = n if groups is None else int(groups.max()) + 1
    weights = np.bincount(generator.integers(count, size=count), minlength=count).astype(np.float64)
    return weights if groups is None else np.asarray(weights[groups])


def entity_statistics(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], types: Sequence[str], scheme: Scheme
) -> Statistics:
    """Micro precision, recall, f1 over entities, and f1/TYPE, from label sequences of equal lengths.

    An entity counts when its span and its type are right. Entities are as in `entities`.
    """
    index = {kind: 3 * position for position, kind in enumerate(types)}
    counts = np.zeros((len(gold), 3 * len(types)))
    for row, (true, guess) in enumerate(
        zip(entities(gold, scheme), entities(predicted, scheme), strict=True)
    ):
        for offset, found in enumerate((true & guess, guess, true)):
            for kind, number in Counter(kind for kind, _, _ in found).items():
                counts[row, index[kind] + offset] = number

    def summarise(sums: Floats) -> dict[str, Floats]:
        correct, guessed, expected = (sums[..., offset::3] for offset in range(3))
        by_type = _f1(correct, guessed, expected)
        total = [part.sum(axis=-1) for part in (correct, guessed, expected)]
        return {
            "f1": _f1(*total),
            "precision": ratio(total[0], total[1]),
            "recall": ratio(total[0], total[2]),
            **{f"f1/{kind}": by_type[..., position] for position, kind in enumerate(types)},
        }

    return Statistics(counts, summarise)


def entities(sequences: Sequence[Sequence[str]], scheme: Scheme) -> list[set[tuple[str, int, int]]]:
    """For each sequence its entities as (type, first word, end word exclusive), as seqeval finds them.

    BIO: seqeval's default, which is CoNLL's conlleval: an I- that continues nothing begins an entity. All others:
    seqeval's strict mode: what breaks the scheme is no entity. Serving decodes alike (runtime.entities).
    """
    from seqeval.metrics.sequence_labeling import get_entities
    from seqeval.scheme import BILOU, IOBES, Entities

    if scheme == "bio":
        return [
            {(kind, start, last + 1) for kind, start, last in get_entities(list(row))} for row in sequences
        ]
    rows = [[_AS_BIOES.get(label[0], label[0]) + label[1:] for label in row] for row in sequences]
    found = Entities(rows, BILOU if scheme == "bilou" else IOBES).entities
    return [{(entity.tag, entity.start, entity.end) for entity in row} for row in found]


_AS_BIOES = {"M": "I", "W": "S"}
"""What seqeval calls the letters of BMES and BMEWO."""


def class_statistics(gold: Sequence[int], predicted: Sequence[int], labels: Sequence[str]) -> Statistics:
    """macro_f1 over all `labels`, accuracy (micro F1 is the same) and f1/LABEL, from label indices."""
    one_hot = np.eye(len(labels), dtype=bool)
    several = label_statistics(
        one_hot[np.asarray(gold, dtype=np.int64)], one_hot[np.asarray(predicted, dtype=np.int64)], labels
    )

    def summarise(sums: Floats) -> dict[str, Floats]:
        return {name: value for name, value in several.summarise(sums).items() if name != "micro_f1"}

    return Statistics(several.counts, summarise)


def label_statistics(gold: Flags, predicted: Flags, labels: Sequence[str]) -> Statistics:
    """macro_f1 over all `labels`, micro_f1, accuracy and f1/LABEL, from [examples, labels] of which label holds.

    An example counts for `accuracy` when all of its labels are right (scikit-learn's subset accuracy).
    """
    size = len(labels)
    true, guess = gold.astype(np.float64), predicted.astype(np.float64)
    exact = (gold == predicted).all(axis=1, keepdims=True)
    counts = np.concatenate([true * guess, guess, true, exact, np.ones_like(exact)], axis=1, dtype=np.float64)

    def summarise(sums: Floats) -> dict[str, Floats]:
        parts = [sums[..., part * size : (part + 1) * size] for part in range(3)]
        by_label = _f1(*parts)
        return {
            "macro_f1": by_label.mean(axis=-1),
            "micro_f1": _f1(*(part.sum(axis=-1) for part in parts)),
            "accuracy": ratio(sums[..., -2], sums[..., -1]),
            **{f"f1/{label}": by_label[..., position] for position, label in enumerate(labels)},
        }

    return Statistics(counts, summarise)


def _f1(correct: Floats, guessed: Floats, expected: Floats) -> Floats:
    return ratio(2 * correct, guessed + expected)


def ratio(part: Floats, whole: Floats) -> Floats:
    """part / whole, and 0 where the whole is 0 (seqeval's and scikit-learn's zero_division=0)."""
    return np.divide(part, whole, out=np.zeros_like(whole, dtype=np.float64), where=whole > 0)
