"""Exact match and F1 of answers as SQuAD's own script has them (Rajpurkar et al. 2016, 2018: evaluate-v2.0.py).

Does not read data or decode logits.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from adapthub.recipes.metrics import Statistics

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

    Where some questions have none: also f1/answered and exact/answered, of those that have, and exact/unanswered.
    """
    counts = np.zeros((len(gold), 6))
    for row, (answers, guess) in enumerate(zip(gold, predicted, strict=True)):
        # As the script: gold answers that normalise to nothing do not count.
        wanted = [answer for answer in answers if normalise(answer)] or [""]
        best = max(f1(answer, guess) for answer in wanted), max(exact(answer, guess) for answer in wanted)
        counts[row] = (*best, 1, 0, 0, 0) if answers else (0, 0, 0, *best, 1)
    some_have_none = bool(counts[:, 5].any())

    def summarise(sums: Floats) -> dict[str, Floats]:
        had, had_none = sums[..., 2], sums[..., 5]
        values = {
            "f1": _ratio(sums[..., 0] + sums[..., 3], had + had_none),
            "exact": _ratio(sums[..., 1] + sums[..., 4], had + had_none),
        }
        if some_have_none:
            values |= {
                "f1/answered": _ratio(sums[..., 0], had),
                "exact/answered": _ratio(sums[..., 1], had),
                "exact/unanswered": _ratio(sums[..., 4], had_none),
            }
        return values

    return Statistics(counts, summarise)


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(whole, dtype=np.float64), where=whole > 0)
