"""What makes one evaluation of a run better than another."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import TrainerState

from adapthub.recipes.best_step import breaks_tie, last_loss


@pytest.fixture
def state() -> TrainerState:
    """The best evaluation is that of step 20; a later one is worse, with a lower loss."""
    history: list[dict[str, Any]] = [
        {"step": 10, "eval_loss": 0.1, "eval_f1": 0.3},
        {"step": 20, "loss": 0.9},
        {"step": 20, "eval_loss": 0.8, "eval_f1": 0.5},
        {"step": 30, "eval_loss": 0.6, "eval_f1": 0.4},
        {"step": 40, "loss": 0.2},
    ]
    return TrainerState(best_metric=0.5, best_global_step=20, log_history=history)


@pytest.mark.parametrize(
    ("metric", "loss", "better"),
    [
        (0.5, 0.7, True),
        (0.5, 0.8, False),
        (0.5, 0.7999, False),  # not by a thousandth
        (0.5, 0.9, False),
        (0.5, float("nan"), False),
        (0.4, 0.1, False),
        (0.6, 0.1, False),  # no tie
    ],
)
def test_equal_metrics_are_told_apart_by_their_loss(
    state: TrainerState, metric: float, loss: float, better: bool
) -> None:
    assert breaks_tie(state, metric, loss) is better


def test_the_first_evaluation_ties_with_none() -> None:
    assert not breaks_tie(TrainerState(), 0.0, 0.1)


def test_the_loss_of_the_last_evaluation(state: TrainerState) -> None:
    assert last_loss(state) == 0.6
