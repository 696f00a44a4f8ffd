"""Rows whose every target is cut off: said, left out of training, and no NaN in any loss."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest

from adapthub.adapters.errors import InvalidSettings
from adapthub.recipes import plan, train
from adapthub.recipes.recipe import Encoded
from adapthub.recipes.stored_rows import RowWriter, read_rows
from adapthub.recipes.taught import taught, untaught
from tests.conftest import WORDS
from tests.recipes.test_prefer import write_base

NAMES = [word for word in WORDS if word.isalpha()]


@pytest.fixture(scope="module")
def causal_base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Llama of 128 positions over bytes."""
    return str(write_base(tmp_path_factory.mktemp("causal") / "llama"))


def texts(count: int, words: int, seed: int = 0) -> list[dict[str, str]]:
    draw = random.Random(seed)
    return [
        {"text": " ".join(draw.choices(NAMES, k=words)), "summary": draw.choice(NAMES)} for _ in range(count)
    ]


def asked(run: Any, name: str) -> list[float]:
    return [entry[name] for entry in run.history if name in entry]


def test_the_validation_loss_is_the_mean_over_all_targets_whatever_the_batches(
    causal_base: str, tmp_path: Path
) -> None:
    """Rows without a target are the longest, so a batch of them comes first."""
    validation = [*texts(6, 2, seed=1), *texts(4, 20)]
    losses = []
    for batch_size in (1, 5):
        result = train(
            "summarize",
            {"train": texts(8, 2), "validation": validation},
            base=causal_base,
            output=tmp_path / str(batch_size),
            batch_size=batch_size,
            max_steps=2,
            learning_rate=1e-9,
            prompt="{source}",
            max_length=40,
            precision="fp32",  # in bf16 losses meanwhile are coarser than those at the end
            quiet=True,
        )
        (first, *_) = found = asked(result.run, "eval_loss")
        assert all(math.isfinite(loss) for loss in found)
        assert first == pytest.approx(result.metrics["validation"]["loss"].value, rel=1e-4)
        losses.append(first)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("gradient_accumulation", [1, 2])
def test_rows_without_a_target_are_not_learnt_from(
    causal_base: str, tmp_path: Path, gradient_accumulation: int
) -> None:
    """One row a batch: such a row would be a batch whose loss is no number."""
    given: dict[str, Any] = {
        "base": causal_base,
        "validation": False,
        "batch_size": 1,
        "epochs": 1,
        "prompt": "{source}",
        "max_length": 40,
        "gradient_accumulation": gradient_accumulation,
    }
    notes: list[str] = []
    few = texts(4, 2)
    alone = train("summarize", few, output=tmp_path / "few", report=notes.append, quiet=True, **given)
    assert notes == []
    rows = [few[0], *texts(3, 60), *few[1:]]
    result = train("summarize", rows, output=tmp_path / "all", report=notes.append, quiet=True, **given)
    assert notes[-1] == "train: 3 of 7 rows have no label left, so nothing is learnt of them"
    assert asked(result.run, "loss") == asked(alone.run, "loss")
    assert plan("summarize", rows, **given).steps == 4 // gradient_accumulation


@pytest.mark.slow
def test_a_plan_tries_rows_that_are_learnt_from(causal_base: str) -> None:
    """The longest rows, which are tried first, have no target."""
    rows = [*texts(12, 2), *texts(8, 60)]
    planned = plan(
        "summarize",
        rows,
        base=causal_base,
        validation=False,
        batch_size=4,
        epochs=1,
        prompt="{source}",
        max_length=40,
        try_steps=True,
    )
    assert planned.steps == 3
    assert planned.trial is not None, planned.notes


def test_rows_in_files_know_it_too(tmp_path: Path) -> None:
    labels = [[1, -100], [-100], [-100, -100], [-100, 2], [], [-100]]
    rows = [{"input_ids": [7] * len(each), "labels": each} for each in labels]
    written = RowWriter(tmp_path)
    for part in (rows[:2], rows[2:]):
        written.add(Encoded(part, supervised=1, targets=4, truncated=0))
    written.close()
    stored = read_rows(tmp_path)
    assert untaught(stored) == untaught(Encoded(rows, 2, 8, 0)) == [1, 2, 5]
    assert list(taught(stored)) == [rows[0], rows[3], rows[4]]
    assert untaught(Encoded([{"labels": 3}, {"input_ids": []}], 1, 2, 0)) == []


def test_words_that_a_tokenizer_cannot_see_are_no_end_of_a_run(tiny_base: Path, tmp_path: Path) -> None:
    rows = [
        *({"tokens": ["ada", "was"], "labels": ["B-PER", "O"]} for _ in range(3)),
        {"tokens": ["\u200b"], "labels": ["O"]},
    ]
    given: dict[str, Any] = {"base": str(tiny_base), "validation": rows, "batch_size": 1, "max_steps": 4}
    result = train("ner", rows, output=tmp_path / "run", quiet=True, **given)
    assert all(math.isfinite(loss) for loss in asked(result.run, "eval_loss"))


def test_no_row_is_longer_than_the_base_reads(causal_base: str) -> None:
    """Its tokenizer has no limit of its own."""
    rows = texts(9, 2)
    assert plan("summarize", rows, base=causal_base).settings["max_length"] == 128
    with pytest.raises(
        InvalidSettings, match="max_length=129 exceeds .*'s 128 positions. Set max_length to at most 128"
    ):
        plan("summarize", rows, base=causal_base, max_length=129)
