"""Metrics of rare findings against scikit-learn's own functions."""

from __future__ import annotations

import importlib
import itertools
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, recall_score, roc_auc_score

from adapthub.recipes.medical_metrics import MedicalStatistics, medical_statistics


def drawn(
    labels: int, n: int = 300, seed: int = 0
) -> tuple[list[int], np.ndarray[tuple[int, int], np.dtype[np.float64]]]:
    """Imbalanced labels and logits that know something of them; rounded, so that some tie."""
    random = np.random.default_rng(seed)
    gold = random.choice(labels, n, p=np.arange(labels, 0, -1) ** 2 / sum(np.arange(labels, 0, -1) ** 2))
    logits = random.normal(size=(n, labels)).round(1)
    logits[np.arange(n), gold] += 1
    return gold.tolist(), logits


def test_probabilities_are_the_softmax() -> None:
    _, logits = drawn(3)
    scores = np.exp(logits)
    probabilities = medical_statistics([0] * len(logits), list(logits), tuple("abc")).probabilities
    assert np.allclose(probabilities, scores / scores.sum(1, keepdims=True))
    large = medical_statistics([0] * len(logits), list(logits + 1000), tuple("abc")).probabilities
    assert np.allclose(large, probabilities)


def test_two_labels_as_scikit_learn() -> None:
    gold, logits = drawn(2)
    statistics = medical_statistics(gold, list(logits), ("healthy", "ill"))
    values, guess = statistics.values(), statistics.probabilities.argmax(1)
    assert values["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(gold, guess))
    assert values["auroc"] == pytest.approx(roc_auc_score(gold, statistics.probabilities[:, 1]))
    assert values["sensitivity"] == pytest.approx(recall_score(gold, guess))
    assert values["specificity"] == pytest.approx(recall_score(gold, guess, pos_label=0))
    assert values["sensitivity/healthy"] == pytest.approx(values["specificity"])


def test_many_labels_as_scikit_learn() -> None:
    gold, logits = drawn(4)
    statistics = medical_statistics(gold, list(logits), tuple("abcd"))
    values, guess = statistics.values(), statistics.probabilities.argmax(1)
    assert values["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(gold, guess))
    area = roc_auc_score(gold, statistics.probabilities, multi_class="ovr", average="macro")
    assert values["auroc"] == pytest.approx(area)
    for at, label in enumerate("abcd"):
        mine, found = np.asarray(gold) == at, guess == at
        assert values[f"sensitivity/{label}"] == pytest.approx(recall_score(mine, found))
        assert values[f"specificity/{label}"] == pytest.approx(recall_score(~mine, ~found))
    assert values["specificity"] == pytest.approx(
        np.mean([values[f"specificity/{label}"] for label in "abcd"])
    )


def test_calibration_error_as_written_down() -> None:
    gold, logits = drawn(3)
    statistics = medical_statistics(gold, list(logits), tuple("abc"))
    probabilities = statistics.probabilities
    confidence, right = probabilities.max(1), probabilities.argmax(1) == gold
    edges = np.linspace(0, 1, 16)
    expected, bins = 0.0, 0
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        bins += bool(inside.any())
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert statistics.values()["ece"] == pytest.approx(expected)
    curve = statistics.reliability()
    assert len(curve.count) == bins
    assert sum(curve.count) == len(gold)
    gaps = np.abs(np.array(curve.confidence) - curve.accuracy)
    assert np.average(gaps, weights=curve.count) == pytest.approx(expected)


def test_a_bin_has_its_upper_edge() -> None:
    """0.6 is the ninth edge of fifteen."""
    three = MedicalStatistics(
        np.array([0, 1, 0]), np.array([[0.59, 0.41], [0.6, 0.4], [0.61, 0.39]]), ("a", "b")
    )
    assert three.reliability().count == (2, 1)
    assert three.reliability().accuracy == (0.5, 1.0)


def test_intervals_are_the_bootstraps() -> None:
    gold, logits = drawn(2, 120)
    statistics = medical_statistics(gold, list(logits), ("healthy", "ill"))
    found = statistics.estimates(seed=3, resamples=200)
    random = np.random.default_rng(3)
    areas = []
    for _ in range(200):
        chosen = random.integers(120, size=120)
        again = medical_statistics(
            np.asarray(gold)[chosen].tolist(), list(logits[chosen]), ("healthy", "ill")
        )
        areas.append(again.values()["auroc"])
    assert (found["auroc"].low, found["auroc"].high) == pytest.approx(
        tuple(np.quantile(areas, (0.025, 0.975)))
    )
    assert found["auroc"].n == 120
    assert found["sensitivity"].low < found["sensitivity"].value < found["sensitivity"].high


def test_shares_of_few_findings_have_wilsons_intervals() -> None:
    binomtest: Any = importlib.import_module("scipy.stats").binomtest
    gold = [0] * 40 + [1] * 5
    logits = np.array([[2.0, 0.0]] * 38 + [[0.0, 2.0]] * 7)
    found = medical_statistics(gold, list(logits), ("healthy", "ill")).estimates(resamples=20)
    for right, total, names in (
        (5, 5, ("sensitivity", "sensitivity/ill", "specificity/healthy")),
        (38, 40, ("specificity", "specificity/ill", "sensitivity/healthy")),
    ):
        expected = binomtest(right, total).proportion_ci(method="wilson")
        for name in names:
            assert (found[name].value, found[name].n) == (right / total, total)
            assert (found[name].low, found[name].high) == pytest.approx((expected.low, expected.high))
            assert found[name].n == total
    assert found["balanced_accuracy"].n == 45
    assert round(found["sensitivity"].low, 2) == 0.57


def test_a_label_without_examples_is_left_out() -> None:
    """As scikit-learn's balanced accuracy does it; an area needs both kinds."""
    logits = np.array([[2.0, 0, 0], [0, 2, 0], [2, 0, 0]])
    values = medical_statistics([0, 1, 1], list(logits), tuple("abc")).values()
    assert values["balanced_accuracy"] == pytest.approx(0.75)
    assert "sensitivity/c" not in values
    assert values["specificity/c"] == 1
    one = MedicalStatistics(np.array([0, 0]), np.array([[0.9, 0.1], [0.6, 0.4]]), ("a", "b"))
    assert "auroc" not in one.estimates(resamples=20)
    assert one.values()["balanced_accuracy"] == 1


def test_pictures_of_one_patient_tell_what_the_patient_does() -> None:
    gold, logits = drawn(2, n=80)
    alone = medical_statistics(gold, list(logits), ("healthy", "ill"))
    groups = np.repeat(np.arange(80), 6)
    copied = medical_statistics(list(np.array(gold)[groups]), list(logits[groups]), ("healthy", "ill"))
    together, by_row = copied.estimates(groups=groups), copied.estimates()
    for name, estimate in alone.estimates().items():
        assert (together[name].low, together[name].high) == pytest.approx(
            (estimate.low, estimate.high), abs=0.02
        )
        assert by_row[name].high - by_row[name].low < 0.6 * (estimate.high - estimate.low)
    assert together["sensitivity"].n == 6 * sum(gold)


def test_findings_of_few_patients_that_were_all_found_are_no_more_than_these() -> None:
    """30 pictures of five patients: Wilson's interval of five, not of thirty. With unlike patients they are worth more."""
    groups = np.repeat(np.arange(10), 6)
    gold = (groups < 5).astype(int)
    logits = np.stack([1 - 2.0 * gold, 2.0 * gold - 1], axis=1)
    found = medical_statistics(list(gold), list(logits), ("healthy", "ill")).estimates(groups=groups)
    assert found["sensitivity"].low == pytest.approx(0.5655, abs=1e-3)
    assert found["sensitivity"].high == pytest.approx(1)
    missed = logits.copy()
    missed[::6] *= -1  # one of each patient's
    found = medical_statistics(list(gold), list(missed), ("healthy", "ill")).estimates(groups=groups)
    rows = medical_statistics(list(gold), list(missed), ("healthy", "ill")).estimates()
    assert found["sensitivity"] == rows["sensitivity"]
