"""Which evaluation of a run is the best: that of the best metric, and of equally good ones that of the lowest loss.

A metric that counts what is right stands still while a model learns: accuracy on few rows, or a rare class that is not yet
said. A loss is lower where it is so by a thousandth: less is no progress. Does not evaluate, and does not decide when a run
ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import TrainerState

_LOSS = "eval_loss"
_LOWER = 1 - 1e-3


def breaks_tie(state: TrainerState, metric: float, loss: float) -> bool:
    """Whether an evaluation of as good a metric as the best one's has a lower loss than that one had."""
    if metric != state.best_metric:
        return False
    best: Mapping[str, Any] | None = next(
        (entry for entry in state.log_history if entry["step"] == state.best_global_step and _LOSS in entry),
        None,
    )
    return best is not None and loss < _LOWER * best[_LOSS]


def last_loss(state: TrainerState) -> float:
    """The validation loss of the evaluation that was logged last."""
    found: float = next(entry[_LOSS] for entry in reversed(state.log_history) if _LOSS in entry)
    return found
