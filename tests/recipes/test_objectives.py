"""What is measured of log likelihoods, and the settings of objectives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from adapthub.adapters.errors import InvalidSettings
from adapthub.recipes.objectives import (
    check_numbers,
    class_weights,
    find_objective,
    judged_losses,
    judged_statistics,
    pair_losses,
    pair_statistics,
)

GAINS = np.array([[1.0, -1.0], [0.0, 0.0], [-2.0, 1.0]])


def test_accuracy_and_margin_of_pairs() -> None:
    values = pair_statistics(GAINS, None, 0.5).values()
    assert values == pytest.approx({"reward_accuracy": 0.5, "reward_margin": 0.5 * (2 + 0 - 3) / 3})
    estimate = pair_statistics(GAINS, np.array([1.0, 2.0, 3.0]), 0.5).estimates()["loss"]
    assert (estimate.value, estimate.n) == (2.0, 3)
    assert 1.0 <= estimate.low < 2.0 < estimate.high <= 3.0


def test_an_adapter_that_changes_nothing_is_at_chance() -> None:
    settings = {"objective": "dpo", "beta": 0.1, "label_smoothing": 0.0}
    losses = pair_losses(np.zeros((4, 2)), np.ones((4, 2)), settings)
    assert losses == pytest.approx(np.full(4, np.log(2)))
    assert pair_statistics(np.zeros((4, 2)), losses, 0.1).values()["reward_accuracy"] == 0.5
    good = np.array([True, True, False])
    nothing = np.zeros(3)
    weights = {"beta": 0.1, "good_weight": 1.0, "bad_weight": 1.0}
    judged = judged_losses(nothing, nothing, good, weights)
    assert judged == pytest.approx(np.full(3, 0.5))
    assert judged_statistics(nothing, nothing, judged, good, 0.1).values()["reward_accuracy"] == 0.5


def test_judged_answers_are_held_against_what_any_answer_gains() -> None:
    """All answers gained; the good ones more than one to another prompt does in the mean."""
    gains, mismatched = np.array([5.0, 6.0, 1.0]), np.array([0.0, 6.0, 3.0])
    good = np.array([True, True, False])
    values = judged_statistics(gains, mismatched, None, good, 2.0).values()
    assert values == {"reward_accuracy": 1.0, "reward_margin": 2.0 * (5.5 - 1.0)}
    assert judged_statistics(-gains, -mismatched, None, good, 2.0).values()["reward_accuracy"] == 0.0
    losses = np.array([1.0, 2.0, 6.0])
    assert judged_statistics(gains, mismatched, losses, good, 2.0).values()["loss"] == 3.0


@pytest.mark.parametrize("kind", [True, False])
def test_where_all_are_judged_alike_they_alone_count(kind: bool) -> None:
    """As a split of few rows may be: an adapter that is always right is not half right."""
    gains, mismatched = np.array([4.0, 5.0]) * (1 if kind else -1), np.zeros(2)
    found = judged_statistics(gains, mismatched, None, np.array([kind, kind]), 1.0).estimates()
    assert found.keys() == {"reward_accuracy"}
    assert (found["reward_accuracy"].value, found["reward_accuracy"].low) == (1, 1)


def test_a_resample_without_bad_answers_says_nothing_of_them() -> None:
    gains, good = np.array([4.0, 5.0, 6.0, -1.0]), np.array([True, True, True, False])
    found = judged_statistics(gains, np.zeros(4), None, good, 1.0).estimates()
    assert (found["reward_accuracy"].low, found["reward_accuracy"].high) == (1, 1)
    assert (found["reward_margin"].low, found["reward_margin"].high) == (5, 7)


def test_the_rarer_judgement_weighs_more() -> None:
    assert class_weights([True, True, True, False]) == {"good_weight": 1.0, "bad_weight": 3.0}
    assert class_weights([True, False, False]) == {"good_weight": 2.0, "bad_weight": 1.0}
    assert class_weights([True, False]) == class_weights([True]) == {"good_weight": 1.0, "bad_weight": 1.0}


@pytest.mark.parametrize(
    ("objective", "beta", "smoothing", "message"),
    [
        ("dpo", 0, 0.0, "beta is a number above 0; 0 is not"),
        ("dpo", "much", 0.0, "beta is a number above 0; 'much' is not"),
        ("dpo", float("inf"), 0.0, "beta is a number above 0; inf is not"),
        ("dpo", True, 0.0, "beta is a number above 0; True is not"),
        ("dpo", 0.1, -0.1, "label_smoothing is a share from 0 to below 0.5; -0.1 is not"),
        ("dpo", 0.1, 0.5, "label_smoothing is a share from 0 to below 0.5; 0.5 is not"),
        ("kto", 0.1, 0.1, "label_smoothing does not apply to kto"),
    ],
)
def test_numbers_that_cannot_work(objective: str, beta: Any, smoothing: float, message: str) -> None:
    with pytest.raises(InvalidSettings, match=message):
        check_numbers(objective, beta, smoothing)


def test_near_names_are_suggested() -> None:
    with pytest.raises(InvalidSettings, match=r"no objective 'dop'\. Did you mean 'dpo'\?"):
        find_objective("dop")
