"""Metrics of retrieval: for each query where its passages rank among all passages of its split, by cosine.

MRR@10, recall@1, recall@10 and nDCG@10 with binary relevance (Järvelin and Kekäläinen 2002), as in BEIR and MTEB. Does not
embed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from adapthub.recipes.metrics import Statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_CUT = 10
_NAMES = ("mrr@10", "ndcg@10", "recall@1", "recall@10")
_BLOCK = 1024  # queries whose similarities are in memory at once


def retrieval_statistics(
    queries: NDArray[Any], passages: NDArray[Any], relevant: Sequence[Sequence[int]]
) -> Statistics:
    """Per query mrr@10, ndcg@10, recall@1 and recall@10, from vectors [queries, hidden] and [passages, hidden].

    `relevant[q]`: which passages query q should find, at least one. A passage that is as near as a relevant one ranks before
    it, so that vectors which are all equal find nothing.
    """
    wanted, found = _unit(queries), _unit(passages)
    counts = np.empty((len(relevant), len(_NAMES) + 1))
    for start in range(0, len(relevant), _BLOCK):
        block = wanted[start : start + _BLOCK] @ found.T
        for row, similarities in enumerate(block, start=start):
            counts[row] = (*_metrics(similarities, relevant[row]), 1)

    def summarise(sums: Floats) -> dict[str, Floats]:
        return {name: sums[..., at] / sums[..., -1] for at, name in enumerate(_NAMES)}

    return Statistics(counts, summarise)


def _metrics(similarities: NDArray[Any], relevant: Sequence[int]) -> tuple[float, float, float, float]:
    own = np.sort(similarities[list(relevant)])[::-1]
    others = np.delete(similarities, list(relevant))
    ranks = np.array([1 + at + int((others >= each).sum()) for at, each in enumerate(own)])
    gains = 1 / np.log2(1 + ranks[ranks <= _CUT])
    ideal = 1 / np.log2(1 + np.arange(1, min(len(ranks), _CUT) + 1))
    first = ranks[0]
    return (
        1 / first if first <= _CUT else 0.0,
        float(gains.sum() / ideal.sum()),
        float((ranks <= 1).sum() / len(ranks)),
        float((ranks <= _CUT).sum() / len(ranks)),
    )


def _unit(vectors: NDArray[Any]) -> Floats:
    exact = np.asarray(vectors, dtype=np.float64)
    lengths: Floats = np.linalg.norm(exact, axis=1, keepdims=True)
    return exact / np.maximum(lengths, 1e-12)
