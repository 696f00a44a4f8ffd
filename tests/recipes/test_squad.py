"""Metrics of answers: as SQuAD's own script has them, and the threshold of "no answer"."""

from __future__ import annotations

import random

import numpy as np
import pytest

from adapthub.recipes.squad import answer_statistics, best_threshold, exact, f1, normalise


@pytest.mark.parametrize(
    ("gold", "predicted", "same", "overlap"),
    [
        # As evaluate-v2.0.py computes them.
        ("The Ada Lovelace", "ada lovelace!", 1, 1),
        ("an Ada", "Ada", 1, 1),
        ("in Paris", "Paris", 0, 2 / 3),
        ("a", "", 1, 1),  # an article alone normalises to nothing
        ("Ada Ada Bob", "Ada Bob Bob", 0, 2 / 3),
        ("Ada", "Bob", 0, 0),
        ("", "Bob", 0, 0),
        ("1,000", "1000", 1, 1),
    ],
)
def test_exact_and_f1_are_squads(gold: str, predicted: str, same: float, overlap: float) -> None:
    assert exact(gold, predicted) == same
    assert f1(gold, predicted) == pytest.approx(overlap)


def test_the_best_gold_answer_counts_and_kinds_are_apart() -> None:
    statistics = answer_statistics([["Bob", "Ada"], ["Ada met"], [], []], ["Ada", "Ada", "", "Eve"])
    values = statistics.values()
    assert values == pytest.approx(
        {
            "f1": (1 + 2 / 3 + 1 + 0) / 4, "exact": 0.5, "f1/answered": 5 / 6, "exact/answered": 0.5,
            "exact/unanswered": 0.5, "no_answer_accuracy": 0.75,
        }
    )  # fmt: skip
    numbers = {name: estimate.n for name, estimate in statistics.estimates(resamples=50).items()}
    assert numbers == {
        "f1": 4, "exact": 4, "f1/answered": 2, "exact/answered": 2, "exact/unanswered": 2, "no_answer_accuracy": 4,
    }  # fmt: skip
    assert np.isnan(statistics.under(np.array([[0.0, 0, 1, 1]]))["f1/answered"]).all()
    # "the" normalises to nothing: as the script has it, no gold answer where there is another
    assert answer_statistics([["the", "Ada"]], [""]).values()["exact"] == 0
    assert answer_statistics([["the"]], [""]).values()["exact"] == 1
    assert set(answer_statistics([["a"]], ["a"]).values()) == {"f1", "exact"}
    assert set(answer_statistics([[]], ["a"]).values()) == {
        *("f1", "exact", "no_answer_accuracy", "exact/unanswered"),
    }
    rare = answer_statistics([["a"]] * 9 + [[]], ["a"] * 9 + [""]).estimates()["exact/unanswered"]
    assert (rare.low, rare.high, rare.n) == (
        1,
        1,
        1,
    )  # a third of all resamples has no such question, and says nothing
    assert normalise("  The  cat's\tHAT ") == "cats hat"


@pytest.mark.parametrize("seed", range(8))
def test_the_threshold_is_the_best_of_every_one(seed: int) -> None:
    draw = random.Random(seed)
    texts = ("ada", "ada bob", "bob", "the")
    gold = [draw.choice(([], ["ada"], ["bob ada", "the"], ["a"])) for _ in range(30)]
    predicted = [draw.choice(texts) for _ in gold]
    differences = [draw.choice((round(draw.gauss(2, 3), 1), 0.5)) for _ in gold]

    def mean_f1(threshold: float) -> float:
        said = [text if by <= threshold else "" for text, by in zip(predicted, differences, strict=True)]
        return answer_statistics(gold, said).values()["f1"]

    found = best_threshold(gold, predicted, differences)
    every = [mean_f1(threshold) for threshold in (min(differences) - 1, *differences)]
    assert mean_f1(found) == pytest.approx(max(every))
    assert found == 0 or mean_f1(0) < max(every)


@pytest.mark.parametrize("seed", range(8))
def test_the_best_f1_is_that_of_squads_script(seed: int) -> None:
    """find_best_thresh of evaluate-v2.0.py, whose scores are all unlike here: it parts equal ones."""
    draw = random.Random(seed)
    gold = [draw.choice(([], ["ada"], ["bob ada", "ada met"])) for _ in range(40)]
    predicted = [draw.choice(("ada", "ada bob", "bob")) for _ in gold]
    differences = [draw.gauss(2 if not answers else -1, 3) for answers in gold]
    score = best = float(sum(not answers for answers in gold))
    for at in sorted(range(len(gold)), key=differences.__getitem__):
        if gold[at]:
            score += max(f1(answer, predicted[at]) for answer in gold[at])
        else:
            score -= 1
        best = max(best, score)
    found = best_threshold(gold, predicted, differences)
    said = [text if by <= found else "" for text, by in zip(predicted, differences, strict=True)]
    assert answer_statistics(gold, said).values()["f1"] == pytest.approx(best / len(gold))


def test_a_threshold_stays_0_where_nothing_needs_choosing() -> None:
    assert best_threshold([["ada"], []], ["ada", "bob"], [-1.0, 1.0]) == 0
    assert best_threshold([["ada"], []], ["ada", "bob"], [3.0, 5.0]) == 4
    assert best_threshold([["ada"], [], []], ["ada", "bob", ""], [-4.0, -3.0, np.inf]) == -3.5
    assert best_threshold([[], []], ["", ""], [np.inf, np.inf]) == 0
    assert best_threshold([["ada"], ["bob"]], ["ada", ""], [3.0, np.inf]) == 4


def test_a_difference_of_the_threshold_itself_is_an_answer() -> None:
    assert best_threshold([["ada"], []], ["ada", "bob"], [0.0, 1.0]) == 0
    assert best_threshold([["ada"], []], ["ada", "bob"], [-1.0, 0.0]) == -0.5


def test_of_equally_good_thresholds_the_nearest_to_0_is_chosen() -> None:
    assert best_threshold([["ada"], []] * 2, ["ada", "bob"] * 2, [-8.0, -6.0, -4.0, -2.0]) == -3
    # gains of 1, -1, 2/3, 1/6, 1/6, -1: the last three make 1 again but for rounding
    gold = [["ada"], [], ["ada bob"], ["ada" + " x" * 10], ["ada" + " x" * 10], []]
    assert best_threshold(gold, ["ada"] * 6, [-9.0, -8.0, -5.0, -4.0, -3.0, -1.0]) == -2
