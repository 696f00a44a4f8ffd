"""From what came when to figures: percentiles, throughput, goodput.

Goodput counts the requests a second that met the objective (SLO): first text within TTFT_SLO seconds of when it was due, and
on average at most TOKEN_SLO seconds between texts. Does not send anything.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

TTFT_SLO = 2.0
TOKEN_SLO = 0.25
Outcome = Mapping[str, Any]


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """One row: how many asked and failed, throughput, goodput, and times in milliseconds."""
    served = [outcome for outcome in outcomes if outcome["error"] is None and outcome["times"]]
    length = max((outcome["ended"] for outcome in served), default=0.0) - min(o["due"] for o in outcomes)
    ttfts = [_ttft(outcome) for outcome in served]
    gaps = [b - a for outcome in served for a, b in pairwise(outcome["times"])]
    return {
        "requests": len(outcomes),
        "failed": len(outcomes) - len(served),
        "tokens/s": sum(outcome["tokens"] for outcome in served) / length if length else 0.0,
        "goodput/s": sum(map(_meets, served)) / length if length else 0.0,
        **{f"TTFT p{p} ms": 1e3 * percentile(ttfts, p) for p in (50, 95, 99)},
        **{f"between p{p} ms": 1e3 * percentile(gaps, p) for p in (50, 95, 99)},
    }


def percentile(values: Sequence[float], p: int) -> float:
    """NaN of none."""
    if len(values) < 2:
        return values[0] if values else float("nan")
    return statistics.quantiles(values, n=100, method="inclusive")[p - 1]


def ttfts_of(outcomes: Sequence[Outcome], tenant: str) -> list[float]:
    """A tenant's times to the first text, in seconds."""
    return [_ttft(outcome) for outcome in outcomes if outcome["tenant"] == tenant and outcome["times"]]


def _ttft(outcome: Outcome) -> float:
    return float(outcome["times"][0] - outcome["due"])


def _meets(outcome: Outcome) -> bool:
    times = outcome["times"]
    between = (times[-1] - times[0]) / max(1, len(times) - 1)
    return _ttft(outcome) <= TTFT_SLO and between <= TOKEN_SLO
