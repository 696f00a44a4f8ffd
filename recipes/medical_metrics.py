"""What a classifier of rare findings is worth: balanced accuracy, AUROC, sensitivity and specificity, calibration.

As scikit-learn defines them, and calibration as Guo et al. (2017). AUROC is no function of sums over examples, so resamples
weigh examples instead of adding them up. Does not read data or run models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from adapthub.recipes.metrics import Estimate, resampled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

BINS = 15
"""Of confidence, equally wide (Guo et al. 2017, "On calibration of modern neural networks")."""

_Z = 1.959963984540054  # 97.5 % of a normal distribution lie below


@dataclass(frozen=True)
class Reliability:
    """Of each bin of confidence that has examples: their mean confidence, the share of them that is right, their number."""

    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    count: tuple[int, ...]


@dataclass(frozen=True)
class MedicalStatistics:
    """What each example adds to the metrics; see metrics.Measured.

    `gold` [examples] and `probabilities` [examples, labels]. With two labels the second is the finding: sensitivity and
    specificity are of it, and AUROC ranks by its probability. With more, all three are means over labels, each against all
    others; "sensitivity/LABEL" and "specificity/LABEL" are there always. A label without examples is left out of means, and
    AUROC is missing where no label has examples with and without it.
    """

    gold: Ints
    probabilities: Floats
    labels: tuple[str, ...]

    @property
    def n(self) -> int:
        """How many examples there are."""
        return len(self.gold)

    def values(self) -> dict[str, float]:
        """Every metric over all examples."""
        drawn = self.under(np.ones((1, self.n)))
        return {name: float(values[0]) for name, values in drawn.items() if not np.isnan(values[0])}

    def estimates(
        self, *, seed: int = 0, resamples: int = 1000, groups: Ints | None = None
    ) -> dict[str, Estimate]:
        """Every metric with its 95 % interval: of a label's sensitivity and specificity, which are shares of few examples
        where findings are rare, Wilson's (1927), which does not end at 1 where all were found; of the others the percentile
        bootstrap's, resampling examples or `groups`. With groups a share is one of as many examples as they are worth."""
        generator = np.random.default_rng(seed)
        drawn = self.under(np.stack([resampled(self.n, generator, groups) for _ in range(resamples)]))
        found = {}
        for name, value in self.values().items():
            share = self._share(name)
            if share is None:
                low, high = np.nanquantile(drawn[name], (0.025, 0.975))
            else:
                right, among = share
                worth = float(among.sum()) if groups is None else _worth(right[among], groups[among])
                low, high = _wilson(value, worth)
            found[name] = Estimate(value, float(low), float(high), self.n_of(name))
        return found

    def n_of(self, metric: str) -> int:
        """All examples, but of a label's sensitivity those that have it, of its specificity all others."""
        share = self._share(metric)
        return self.n if share is None else int(share[1].sum())

    def beside(self, other: Self) -> Self:
        """The examples of both, those of `other` after its own."""
        return replace(
            self,
            gold=np.concatenate([self.gold, other.gold]),
            probabilities=np.concatenate([self.probabilities, other.probabilities]),
        )

    def differs(self, other: Self) -> NDArray[np.bool_]:
        """Which examples [n] have other probabilities in `other`."""
        return np.asarray((self.probabilities != other.probabilities).any(axis=1))

    def _share(self, name: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
        """Of a metric that is a share of a label's examples, or of all others, which of all are right, and which it is
        of."""
        kind, _, label = name.partition("/")
        if not label and len(self.labels) == 2:
            label = self.labels[1]
        if kind not in ("sensitivity", "specificity") or not label:
            return None
        at = self.labels.index(label)
        among = (self.gold == at) == (kind == "sensitivity")
        right = (self._guess() == at) == (kind == "sensitivity")
        return right, among

    def under(self, weights: Floats) -> dict[str, Floats]:
        """Every metric [draws] where example i counts `weights[draw, i]` times; NaN where it is not defined."""
        with np.errstate(invalid="ignore", divide="ignore"):
            true = weights @ np.eye(len(self.labels))[self.gold]
            guessed = weights @ np.eye(len(self.labels))[self._guess()]
            right = weights @ (np.eye(len(self.labels))[self.gold] * (self._guess() == self.gold)[:, None])
            total = weights.sum(axis=1, keepdims=True)
            sensitivity, specificity = right / true, (total - true - guessed + right) / (total - true)
        # Of two labels the second is the finding.
        chosen = slice(1, 2) if len(self.labels) == 2 else slice(None)
        ranked = (1,) if len(self.labels) == 2 else range(len(self.labels))
        areas = [_areas(self.probabilities[:, at], self.gold == at, weights) for at in ranked]
        found = {
            "balanced_accuracy": _means(sensitivity),
            "auroc": _means(np.stack(areas, axis=1)),
            "sensitivity": _means(sensitivity[:, chosen]),
            "specificity": _means(specificity[:, chosen]),
            "ece": self._calibration(weights),
        }
        for at, label in enumerate(self.labels):
            found |= {f"sensitivity/{label}": sensitivity[:, at], f"specificity/{label}": specificity[:, at]}
        return found

    def reliability(self) -> Reliability:
        """How often the likeliest label is right, by how likely it is said to be."""
        confidence, right, place = self._confidence()
        count = np.bincount(place, minlength=BINS)
        used = count > 0
        means = [
            np.bincount(place, values, minlength=BINS)[used] / count[used] for values in (confidence, right)
        ]
        return Reliability(tuple(means[0].tolist()), tuple(means[1].tolist()), tuple(count[used].tolist()))

    def _guess(self) -> Ints:
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)

    def _confidence(self) -> tuple[Floats, Floats, Ints]:
        """Of each example: the likeliest label's probability, whether it is right, and the bin."""
        confidence = self.probabilities.max(axis=1)
        right = (self._guess() == self.gold).astype(np.float64)
        place = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
        return confidence, right, place

    def _calibration(self, weights: Floats) -> Floats:
        """Expected calibration error of each draw: the mean gap of confidence and accuracy, by the bins' weight."""
        confidence, right, place = self._confidence()
        bins = np.eye(BINS)[place]
        gaps = np.abs(weights @ (bins * (confidence - right)[:, None])).sum(axis=1)
        return np.asarray(gaps / weights.sum(axis=1))


def medical_statistics(
    gold: Sequence[int], logits: Sequence[NDArray[np.floating]], labels: Sequence[str]
) -> MedicalStatistics:
    """From label indices and each example's logits [labels]."""
    scores = np.asarray(logits, dtype=np.float64)
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return MedicalStatistics(
        np.asarray(gold, dtype=np.int64), scores / scores.sum(axis=1, keepdims=True), tuple(labels)
    )


def _worth(right: NDArray[np.bool_], groups: Ints) -> float:
    """As how many examples that stand alone those of `groups` tell a share: by what it varies from group to group (Rao and
    Scott 1992); as many as there are groups where nothing varies."""
    _, group = np.unique(groups, return_inverse=True)
    sizes, hits = np.bincount(group), np.bincount(group, right)
    n, count, share = len(right), len(sizes), float(right.mean())
    if count == 1 or share in (0.0, 1.0):
        return float(count)
    variance = count / (count - 1) * float(((hits - share * sizes) ** 2).sum()) / n**2
    return float(np.clip(share * (1 - share) / max(variance, 1e-12), 1, n))


def _wilson(share: float, total: float) -> tuple[float, float]:
    """Wilson's score interval of a share of `total`, 95 %."""
    spread = _Z**2 / total
    middle = share + spread / 2
    width = _Z * np.sqrt(share * (1 - share) / total + spread / (4 * total))
    return float((middle - width) / (1 + spread)), float((middle + width) / (1 + spread))


def _areas(scores: Floats, positive: NDArray[np.bool_], weights: Floats) -> Floats:
    """The area under the ROC curve of each draw: how often a positive example ranks before a negative one, ties half.

    NaN for a draw without one of the two.
    """
    _, ranks = np.unique(scores, return_inverse=True)
    areas = np.empty(len(weights))
    for draw, row in enumerate(weights):
        above = np.bincount(ranks, row * positive)
        below = np.bincount(ranks, row * ~positive)
        pairs = above.sum() * below.sum()
        areas[draw] = (above @ (below.cumsum() - below / 2)) / pairs if pairs else np.nan
    return areas


def _means(values: Floats) -> Floats:
    """Of each row, the mean of what is defined; NaN where nothing is."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, values, 0).sum(axis=1) / known.sum(axis=1))
