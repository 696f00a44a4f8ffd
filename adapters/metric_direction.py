"""Which metrics are the better for being lower. Does not compute any."""

from __future__ import annotations

_LOWER_IS_BETTER = frozenset(
    ("loss", "perplexity", "error", "error_rate", "wer", "cer", "mae", "mse", "rmse", "ece", "brier")
)


def lower_is_better(metric: str) -> bool:
    """Whether less of this metric is more; `loss/B-PER` is as `loss`."""
    return metric.partition("/")[0].lower() in _LOWER_IS_BETTER
