"""Exact match and F1 of answers as SQuAD's own script has them (Rajpurkar et al. 2016, 2018: evaluate-v2.0.py).

Does not read data or decode logits.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from adapthub.recipes.metrics import Statistics, ratio

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_PUNCTUATION = frozenset(string.punctuation)


def normalise(text: str) -> str:
    """Lower case, without ASCII punctuation, English articles and extra white space."""
    kept = "".join(character for character in text.lower() if character not in _PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", kept).split())


def exact(gold: str, predicted: str) -> float:
    """1 where both are the same text once normalised."""
    return float(normalise(gold) == normalise(predicted))


def f1(gold: str, predicted: str) -> float:
    """The harmonic mean of precision and recall over tokens; where either has none, 1 if both have none."""
    wanted, found = normalise(gold).split(), normalise(predicted).split()
    if not wanted or not found:
        return float(wanted == found)
    shared = (Counter(wanted) & Counter(found)).total()
    return 2 * shared / (len(wanted) + len(found))


def answer_statistics(gold: Sequence[Sequence[str]], predicted: Sequence[str]) -> Statistics:
    """f1 and exact of each question's best gold answer; no answer is an empty list, predicted as "".

    Where some questions have none: also no_answer_accuracy, the share of all questions that are rightly said to have an
    answer or none; exact/unanswered, of those alone; and, where others have one, f1/answered and exact/answered of these.
    """
    counts = np.zeros((len(gold), 7))
    for row, (answers, guess) in enumerate(zip(gold, predicted, strict=True)):
        best = _best(f1, answers, guess), _best(exact, answers, guess)
        told = bool(answers) == bool(guess)
        counts[row] = (*best, 1, 0, 0, 0, told) if answers else (0, 0, 0, *best, 1, told)
    answered, unanswered = int(counts[:, 2].sum()), int(counts[:, 5].sum())
    some = {"exact/unanswered": unanswered, "f1/answered": answered, "exact/answered": answered}

    def summarise(sums: Floats) -> dict[str, Floats]:
        had, had_none = sums[..., 2], sums[..., 5]
        values = {
            "f1": ratio(sums[..., 0] + sums[..., 3], had + had_none),
            "exact": ratio(sums[..., 1] + sums[..., 4], had + had_none),
        }
        if unanswered:
            values["no_answer_accuracy"] = ratio(sums[..., 6], had + had_none)
            values["exact/unanswered"] = _of_some(sums[..., 4], had_none)
        if unanswered and answered:
            values |= {
                "f1/answered": _of_some(sums[..., 0], had),
                "exact/answered": _of_some(sums[..., 1], had),
            }
        return values

    return Statistics(counts, summarise, some)


def best_threshold(
    gold: Sequence[Sequence[str]], predicted: Sequence[str], differences: Sequence[float]
) -> float:
    """Above which difference, of the score of "no answer" less that of the best span, "no answer" is said for the best mean
    F1 over all questions (find_best_thresh of evaluate-v2.0.py). `predicted`: the best spans, whether said or not.

    It lies in the middle between two questions, or one logit beyond the first or the last; of equally good places it is the
    nearest to 0, and 0 itself where that is one. Questions without a span (an infinite difference) decide nothing.
    """
    gains = np.array(
        [_best(f1, own, guess) - _best(f1, own, "") for own, guess in zip(gold, predicted, strict=True)]
    )
    scores = np.asarray(differences, dtype=np.float64)
    order = [at for at in np.argsort(scores, kind="stable") if np.isfinite(scores[at])]
    scores, gains = scores[order], gains[order]
    if not order:
        return 0.0
    ends = np.concatenate(([scores[0] - 1], (scores[:-1] + scores[1:]) / 2, [scores[-1] + 1]))
    apart = np.concatenate(([True], scores[:-1] < scores[1:], [True]))  # one threshold parts no equal scores
    totals = np.where(apart, np.concatenate(([0.0], np.cumsum(gains))), -np.inf)
    lows, highs = np.concatenate(([-np.inf], scores)), np.concatenate((scores, [np.inf]))
    best = np.flatnonzero(totals >= totals.max() - 1e-9)
    if any((lows[best] <= 0) & (highs[best] > 0)):
        return 0.0
    return float(ends[best[np.abs(ends[best]).argmin()]])


def _best(measure: Callable[[str, str], float], answers: Sequence[str], guess: str) -> float:
    # As the script: gold answers that normalise to nothing do not count.
    wanted = [answer for answer in answers if normalise(answer)] or [""]
    return max(measure(answer, guess) for answer in wanted)


def _of_some(part: Floats, whole: Floats) -> Floats:
    """part / whole, and NaN where a resample has none of these questions."""
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)
