"""Metrics against their libraries (seqeval, scikit-learn), and the bootstrap against its definition."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from seqeval.metrics import classification_report
from seqeval.scheme import BILOU, IOBES
from sklearn.metrics import accuracy_score, f1_score

from adapthub.recipes.data.schemes import Scheme
from adapthub.recipes.metrics import class_statistics, entities, entity_statistics

ALPHABETS = {
    "bio": ["O", "B-X", "I-X", "B-Y", "I-Y"],
    "bilou": ["O", *(f"{p}-{t}" for t in "XY" for p in "BILU")],
    "bioes": ["O", *(f"{p}-{t}" for t in "XY" for p in "BIES")],
}
GRAMMARS = {"bilou": BILOU, "bioes": IOBES}


@given(st.data(), st.sampled_from(["bio", "bilou", "bioes"]))
def test_entity_metrics_are_seqevals(data: st.DataObject, scheme: Scheme) -> None:
    lengths = data.draw(st.lists(st.integers(1, 8), min_size=1, max_size=6))
    label = st.sampled_from(ALPHABETS[scheme])
    gold, predicted = (
        [data.draw(st.lists(label, min_size=n, max_size=n)) for n in lengths] for _ in range(2)
    )
    assume(any(entities(gold, scheme)) or any(entities(predicted, scheme)))  # seqeval warns without
    assume(any(entities(gold, scheme)) or scheme != "bio")  # its default mode warns without true entities
    mode = {} if scheme == "bio" else {"mode": "strict", "scheme": GRAMMARS[scheme]}
    report = classification_report(gold, predicted, output_dict=True, zero_division=0, **mode)
    values = entity_statistics(gold, predicted, ("X", "Y"), scheme).values()
    absent = {"precision": 0.0, "recall": 0.0, "f1-score": 0.0}
    micro = report.get("micro avg", absent)
    assert values == pytest.approx(
        {
            "f1": micro["f1-score"],
            "precision": micro["precision"],
            "recall": micro["recall"],
            "f1/X": report.get("X", absent)["f1-score"],
            "f1/Y": report.get("Y", absent)["f1-score"],
        }
    )


def test_entities_of_broken_sequences() -> None:
    assert entities([["B-X", "I-X", "O", "I-Y"]], "bio") == [{("X", 0, 2), ("Y", 3, 4)}]
    assert entities([["B-X", "L-X", "O", "I-Y"], ["B-X", "I-X"]], "bilou") == [{("X", 0, 2)}, set()]
    assert entities([["B-X", "I-X", "L-X", "B-Y", "O", "U-X"]], "bilou") == [{("X", 0, 3), ("X", 5, 6)}]


def test_entities_of_bmes_and_bmewo_are_those_of_bioes() -> None:
    rows = [["B-X", "I-X", "E-X", "S-Y", "O"], ["B-X", "I-X", "O", "E-X", "I-Y"]]
    kinds: tuple[tuple[Scheme, str], ...] = (("bmes", "S"), ("bmewo", "W"))
    for scheme, single in kinds:
        said = [[label.replace("I-", "M-").replace("S-", f"{single}-") for label in row] for row in rows]
        assert entities(said, scheme) == entities(rows, "bioes") == [{("X", 0, 3), ("Y", 3, 4)}, set()]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1))
def test_class_metrics_are_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    gold, predicted = zip(*pairs, strict=True)
    values = class_statistics(gold, predicted, ("a", "b", "c", "d")).values()
    each = f1_score(gold, predicted, labels=range(4), average=None, zero_division=0)
    assert values == pytest.approx(
        {
            "macro_f1": f1_score(gold, predicted, labels=range(4), average="macro", zero_division=0),
            "accuracy": accuracy_score(gold, predicted),
            **{f"f1/{label}": each[index] for index, label in enumerate("abcd")},
        }
    )


def sample(n: int) -> tuple[list[int], list[int]]:
    generator = np.random.default_rng(1)
    gold = generator.integers(2, size=n)
    return gold.tolist(), np.where(generator.random(n) < 0.8, gold, 1 - gold).tolist()


def test_an_interval_is_that_of_resampled_examples() -> None:
    gold, predicted = sample(120)
    estimate = class_statistics(gold, predicted, ("a", "b")).estimates(seed=3, resamples=400)["macro_f1"]
    generator = np.random.default_rng(3)
    naive = []
    for _ in range(400):
        rows = generator.integers(120, size=120)
        naive.append(f1_score(np.take(gold, rows), np.take(predicted, rows), labels=[0, 1], average="macro"))
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(naive, [0.025, 0.975])))
    assert estimate.low < estimate.value < estimate.high
    assert estimate.n == 120


def test_the_interval_of_an_accuracy_has_the_binomial_width() -> None:
    gold, predicted = sample(2000)
    estimate = class_statistics(gold, predicted, ("a", "b")).estimates()["accuracy"]
    half = 1.96 * (estimate.value * (1 - estimate.value) / 2000) ** 0.5
    assert estimate.high - estimate.low == pytest.approx(2 * half, rel=0.1)


def test_a_seed_repeats_and_another_differs() -> None:
    statistics = class_statistics(*sample(200), ("a", "b"))
    assert statistics.estimates(seed=1) == statistics.estimates(seed=1) != statistics.estimates(seed=2)


def test_a_thousand_resamples_of_a_large_test_split_take_moments() -> None:
    statistics = class_statistics(*sample(5000), ("a", "b"))
    begin = time.process_time()
    statistics.estimates()
    assert time.process_time() - begin < 2.0


def test_metrics_without_any_entity_are_zero() -> None:
    estimates = entity_statistics([["O", "O"]], [["O", "O"]], ("X",), "bio").estimates(resamples=10)
    assert {(e.value, e.low, e.high) for e in estimates.values()} == {(0.0, 0.0, 0.0)}


def test_groups_of_equal_rows_tell_what_one_row_of_each_does() -> None:
    """Resampled together, however their rows are mixed; row by row they would tell ten times as much."""
    draw = np.random.default_rng(0)
    gold = draw.integers(2, size=60)
    predicted = np.where(draw.random(60) < 0.7, gold, 1 - gold)
    alone = class_statistics(list(gold), list(predicted), ("a", "b"))
    groups = draw.permutation(np.repeat(np.arange(60), 10))
    copied = class_statistics(list(gold[groups]), list(predicted[groups]), ("a", "b"))
    together = copied.estimates(groups=groups)
    for name, estimate in alone.estimates().items():
        assert (together[name].low, together[name].high) == pytest.approx((estimate.low, estimate.high))
        assert together[name].n == 600
    by_row = copied.estimates()["accuracy"]
    assert by_row.high - by_row.low < 0.4 * (together["accuracy"].high - together["accuracy"].low)
