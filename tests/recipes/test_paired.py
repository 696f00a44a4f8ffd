"""Paired bootstrap: what it says of equal, of better and of noisy models, and against an analytic interval."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from adapthub.adapters.metric_direction import lower_is_better
from adapthub.recipes.medical_metrics import MedicalStatistics
from adapthub.recipes.metrics import Statistics, class_statistics
from adapthub.recipes.objectives import pair_statistics
from adapthub.recipes.paired import RESAMPLES, Difference, better, differences
from adapthub.recipes.squad import answer_statistics

LABELS = ("no", "yes")


def statistics(gold: np.ndarray, right: np.ndarray) -> Statistics:
    return class_statistics(list(gold), list(np.where(right, gold, 1 - gold)), LABELS)


def test_a_model_is_no_better_than_itself() -> None:
    draw = np.random.default_rng(0)
    gold = draw.integers(2, size=200)
    one = statistics(gold, draw.random(200) < 0.8)
    found = differences(one, one)
    assert found.keys() == {"accuracy", "macro_f1", "f1/no", "f1/yes"}
    assert all((each.difference, each.low, each.high, each.p) == (0, 0, 0, 1) for each in found.values())
    assert better("accuracy", found["accuracy"]) == 0


def test_the_interval_of_accuracy_is_that_of_paired_differences() -> None:
    """The difference of accuracies is a mean of per-example differences: its normal interval is known."""
    draw = np.random.default_rng(1)
    n = 2000
    gold = draw.integers(2, size=n)
    before, after = draw.random(n) < 0.70, draw.random(n) < 0.75
    found = differences(statistics(gold, before), statistics(gold, after))["accuracy"]
    each = after.astype(float) - before
    half = 1.96 * each.std() / np.sqrt(n)
    assert found.difference == pytest.approx(each.mean())
    assert found.low == pytest.approx(each.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(each.mean() + half, abs=0.1 * half)
    assert (found.first, found.second, found.n) == (before.mean(), after.mean(), n)
    assert better("accuracy", found) == 2


def test_interval_and_p_are_those_of_the_resamples() -> None:
    draw = np.random.default_rng(7)
    n, gold = 30, np.ones(30, dtype=np.int64)
    before, after = draw.random(n) < 0.6, draw.random(n) < 0.8
    found = differences(statistics(gold, before), statistics(gold, after), seed=5)["accuracy"]
    rows = np.random.default_rng(5).integers(n, size=(RESAMPLES, n))
    drawn = (after.astype(float) - before)[rows].mean(axis=1)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, (0.025, 0.975))))
    others = (drawn <= 1e-9).sum()
    assert 10 < others < RESAMPLES // 4
    of_resamples = 2 * (1 + others) / (1 + RESAMPLES)
    exact = binomtest(int((after & ~before).sum()), int((after != before).sum())).pvalue
    assert exact > of_resamples + 0.02
    assert found.p == pytest.approx(exact, abs=0.02)


def test_p_is_that_of_the_resamples_where_those_are_less_sure() -> None:
    """Losses of which one example's decides: exchanges bring it to the other side as often as not, resamples lose it."""
    losses = np.array([[1.0, 1.0]] * 30)
    losses[:15, 1] = 0.99
    losses[15:29, 1] = 1.0099
    losses[29, 1] = 0.9
    first, second = (
        Statistics(losses[:, at : at + 1], lambda sums: {"loss": sums[..., 0] / 30}) for at in (0, 1)
    )
    found = differences(first, second, seed=5)["loss"]
    rows = np.random.default_rng(5).integers(30, size=(RESAMPLES, 30))
    drawn = (losses[:, 1] - losses[:, 0])[rows].mean(axis=1)
    assert found.p >= 2 * (1 + (drawn >= 0).sum()) / (1 + RESAMPLES) * (1 - 1e-9)


def test_a_resample_in_which_a_metric_is_not_defined_says_nothing_of_it() -> None:
    """A third of them lack the one question that has no answer."""
    gold = [["ada"]] * 9 + [[]]
    right, wrong = (answer_statistics(gold, ["ada"] * 9 + [said]) for said in ("", "bob"))
    found = differences(right, wrong)["exact/unanswered"]
    assert (found.difference, found.low, found.high, found.n, found.p) == (-1, -1, -1, 1, 1)


def test_only_what_both_have_is_compared() -> None:
    """Answers that are judged otherwise than the adapter learnt have no loss."""
    gains = np.array([[1.0, -1.0], [0.0, 2.0]])
    with_loss, without = pair_statistics(gains, np.ones(2), 0.1), pair_statistics(gains, None, 0.1)
    for first, second in ((with_loss, without), (without, with_loss)):
        assert differences(first, second).keys() == {"reward_accuracy", "reward_margin"}


def test_pairing_sees_what_two_intervals_do_not() -> None:
    """A model right wherever the other is and on 2 % more: each one's own interval is wider than the gap."""
    draw = np.random.default_rng(2)
    gold = draw.integers(2, size=1000)
    before = draw.random(1000) < 0.7
    after = before | (draw.random(1000) < 0.04)
    first, second = statistics(gold, before), statistics(gold, after)
    found = differences(first, second)["accuracy"]
    assert found.low > 0
    assert found.p < 0.01
    assert first.estimates()["accuracy"].high > second.estimates()["accuracy"].low


def test_p_is_uniform_enough_without_a_difference() -> None:
    """At a level of 10 %, about a tenth of equal pairs are called different: the test neither sleeps nor cries wolf."""
    draw = np.random.default_rng(3)
    called = 0
    for _ in range(100):
        gold = draw.integers(2, size=150)
        pair = [statistics(gold, draw.random(150) < 0.8) for _ in range(2)]
        called += differences(*pair)["accuracy"].p < 0.1
    assert 3 <= called <= 20


@pytest.mark.parametrize(("n", "winner", "p"), [(1, 0, 1.0), (2, 0, 0.5), (5, 0, 0.0625), (6, 2, 0.03125)])
def test_few_examples_tell_nothing_though_all_agree(n: int, winner: int, p: float) -> None:
    """Every resample of them is alike: an interval without width, which a coin gives in 2 of 2 ** n cases."""
    gold = np.ones(n, dtype=np.int64)
    found = differences(statistics(gold, gold == 0), statistics(gold, gold == 1))["accuracy"]
    assert (found.difference, found.low, found.high, found.n) == (1, 1, 1, n)
    assert better("accuracy", found) == winner
    assert found.p == p


@pytest.mark.parametrize(
    ("losing", "winning", "winner"),
    [(0, 4, 0), (0, 5, 0), (0, 6, 2), (1, 7, 0), (1, 8, 2), (40, 75, 2), (50, 60, 0)],
)
def test_where_few_examples_differ_it_is_the_sign_test(losing: int, winning: int, winner: int) -> None:
    """Of 200 examples that most answer alike: by scipy's binomial test of those that do not."""
    gold = np.ones(200, dtype=np.int64)
    before, after = np.arange(200) < 20 + losing, np.arange(200) < 20
    after = after | ((np.arange(200) >= 100) & (np.arange(200) < 100 + winning))
    found = differences(statistics(gold, before), statistics(gold, after))["accuracy"]
    exact = binomtest(winning, losing + winning).pvalue
    assert better("accuracy", found) == winner
    assert found.clear == (exact < 0.05)
    few = losing + winning <= 11
    assert found.p == pytest.approx(exact, rel=1e-9 if few else 0, abs=0 if few else 0.03)


def test_groups_of_equal_rows_are_drawn_and_exchanged_together() -> None:
    draw = np.random.default_rng(4)
    gold = draw.integers(2, size=40)
    before, after = draw.random(40) < 0.6, draw.random(40) < 0.8
    groups = np.repeat(np.arange(40), 5)
    alone = differences(statistics(gold, before), statistics(gold, after))["accuracy"]
    copied = [statistics(gold[groups], right[groups]) for right in (before, after)]
    together = differences(*copied, groups=groups)["accuracy"]
    assert (together.low, together.high, together.p) == pytest.approx((alone.low, alone.high, alone.p))
    assert differences(*copied)["accuracy"].p < alone.p / 2


def test_auroc_needs_more_than_a_few_examples_that_differ() -> None:
    """Four findings that one model alone ranks behind the healthy: exchanges of four tell little."""
    gold = np.array([0] * 40 + [1] * 10)
    scores = np.where(gold == 1, 2.0, -2.0) + np.linspace(0, 0.5, 50)
    worse = scores.copy()
    worse[-4:] = -3.0
    first, second = (
        MedicalStatistics(gold, np.stack([1 - p, p], axis=1), LABELS)
        for p in (1 / (1 + np.exp(-s)) for s in (worse, scores))
    )
    found = differences(first, second)
    assert found["auroc"].difference > 0.25
    assert found["auroc"].low > 0
    assert not found["auroc"].clear
    assert found["auroc"].p == pytest.approx(0.125)


@pytest.mark.parametrize(
    ("metric", "second_wins"), [("f1", True), ("loss", False), ("wer", False), ("f1/PER", True)]
)
def test_which_is_better_depends_on_the_metrics_direction(metric: str, second_wins: bool) -> None:
    up = Difference(first=0.2, second=0.4, difference=0.2, low=0.1, high=0.3, p=0.001, n=9)
    down = Difference(first=0.4, second=0.2, difference=-0.2, low=-0.3, high=-0.1, p=0.001, n=9)
    assert better(metric, up) == (2 if second_wins else 1)
    assert better(metric, down) == (1 if second_wins else 2)
    assert lower_is_better(metric) != second_wins
