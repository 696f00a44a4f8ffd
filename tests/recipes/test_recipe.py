"""One suite that every recipe of the catalogue runs through, and the catalogue itself."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adapthub.adapters.errors import InvalidSettings
from adapthub.recipes.answer_rows import sequences
from adapthub.recipes.catalog import RECIPES, find_recipe
from adapthub.recipes.recipe import (
    EmbeddingRecipe,
    Encoded,
    GeneratingRecipe,
    LabellingRecipe,
    PreferringRecipe,
    Recipe,
)
from tests.recipes.tokenizer_kinds import byte_level, wordpiece

ROWS: dict[str, list[dict[str, Any]]] = {
    "ner": [
        {"tokens": ["ada", "was", "in", "london"], "labels": ["B-PER", "O", "O", "B-LOC"]},
        {"tokens": ["xyz"], "labels": ["B-PER"]},
    ],
    "sentiment": [{"text": "a good film", "label": "pos"}, {"text": "bad", "label": "neg"}],
    "chat": [
        {"prompt": "a film?", "completion": "a good film"},
        {"prompt": "bad?", "completion": "bad"},
    ],
    "prefer": [
        {"prompt": "a film", "chosen": "it is good", "rejected": "bad"},
        {"prompt": "ada", "chosen": "she met bob", "rejected": "london is great"},
    ],
    "summarize": [
        {"document": "the film was long and the story dull", "summary": "a dull film"},
        {"document": "ada was born in london", "summary": "ada"},
    ],
    "qa": [
        {"question": "who is good", "context": "ada is good", "answer": "ada"},
        {"question": "who is bad", "context": "the film", "answer": ""},
    ],
    "embed": [{"query": "a good film", "passage": "bad"}, {"query": "is bad", "passage": "the film is fine"}],
    "translate": [
        {"source": "a good film", "target": "ein guter film"},
        {"source": "bad", "target": "schlecht"},
    ],
    "classify": [{"text": "a good film", "label": "pos"}, {"text": "bad", "label": "neg"}],
}


@pytest.fixture(params=sorted(ROWS))
def recipe(request: pytest.FixtureRequest) -> Recipe:
    """Those of texts; what others read has suites of its own (test_speech)."""
    return RECIPES[request.param]


@pytest.fixture(params=sorted(RECIPES))
def any_recipe(request: pytest.FixtureRequest) -> Recipe:
    return RECIPES[request.param]


@pytest.fixture
def tokenizer(recipe: Recipe, tmp_path: Path) -> Any:
    """BERT's kind, or for recipes that generate one that ends a text."""
    return byte_level() if recipe.task == "text-generation" else wordpiece(tmp_path)


def encode(recipe: Recipe, tokenizer: Any) -> tuple[Any, tuple[str, ...], Encoded]:
    data = recipe.read(ROWS[recipe.name])
    labels = recipe.labels(data)
    recipe.check(data, labels)
    settings = recipe.resolve(tokenizer, data, max_length=96)
    return data, labels, recipe.encode(tokenizer, data, labels, settings)


def test_reading_options_are_the_ones_that_are_described(any_recipe: Recipe) -> None:
    taken = list(inspect.signature(any_recipe.read).parameters)
    assert taken[1:] == [name for name in taken if name in any_recipe.options]
    assert set(taken[1:]) == set(any_recipe.options)
    assert all(any_recipe.options.values())
    assert any_recipe.description
    assert any_recipe.formats


@pytest.mark.parametrize("method", ["lora", "rslora", "dora", "prefix"])
def test_defaults_can_train(any_recipe: Recipe, method: str) -> None:
    defaults = any_recipe.defaults(method)
    assert 0 < defaults.learning_rate <= (defaults.head_learning_rate or defaults.learning_rate) < 1
    assert defaults.epochs >= 1
    assert defaults.batch_size >= 1
    assert defaults.max_length is None or defaults.max_length > 16
    assert defaults.warmup is None or 0 <= defaults.warmup < 1


def test_a_batch_is_padded_int64_and_loses_nothing(recipe: Recipe, tokenizer: Any) -> None:
    _, _, encoded = encode(recipe, tokenizer)
    batch = recipe.collator(tokenizer)([dict(row) for row in encoded.rows])
    if isinstance(recipe, EmbeddingRecipe):
        texts = [row["texts"][at]["input_ids"] for at in range(2) for row in encoded.rows]
        found = zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True)
        assert [ids[mask].tolist() for ids, mask in found] == texts
        assert batch["labels"].tolist() == [0, 1]
        return
    rows = list(encoded.rows)
    if isinstance(recipe, PreferringRecipe):
        rows = [sequences(row)[part] for part in (0, 1) for row in rows]
    lengths = [len(row["input_ids"]) for row in rows]
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (len(rows), max(lengths))
    assert all(values.dtype == torch.int64 for values in batch.values())
    assert batch["attention_mask"].sum(dim=1).tolist() == lengths
    for index, row in enumerate(rows):
        assert batch["input_ids"][index, : lengths[index]].tolist() == row["input_ids"]
        labels = batch["labels"][index]
        if labels.ndim:
            assert labels[: lengths[index]].tolist() == row["labels"]
            assert set(labels[lengths[index] :].tolist()) <= {-100}
        else:
            assert labels.item() == row["labels"]


def perfect(recipe: Recipe, row: dict[str, Any], labels: tuple[str, ...]) -> Any:
    """Logits that say what the row's labels say."""
    if recipe.task == "question-answering":
        logits = np.zeros((len(row["input_ids"]), 2))
        logits[row["labels"], [0, 1]] = 9.0
        return logits
    return np.eye(len(labels))[np.maximum(np.array(row["labels"]), 0)]


def test_perfect_outputs_measure_one_and_the_headline_metrics_exist(recipe: Recipe, tokenizer: Any) -> None:
    data, labels, encoded = encode(recipe, tokenizer)
    if isinstance(recipe, PreferringRecipe):
        likelihoods = np.array(
            [0.0, -1.0, -0.5, -0.5]
        )  # of chosen and rejected, under the adapter and the base
        values = recipe.measure([likelihoods] * len(data), data, encoded, labels).values()
        assert values["reward_accuracy"] == 1
        assert values["reward_margin"] == pytest.approx(0.1)
    elif isinstance(recipe, LabellingRecipe):
        outputs = [perfect(recipe, row, labels) for row in encoded.rows]
        values = recipe.measure(outputs, data, encoded, labels).values()
        assert set(values.values()) == {1.0}
    elif isinstance(recipe, EmbeddingRecipe):
        values = recipe.measure_vectors([np.eye(2)[[at, at]] for at in range(2)], data).values()
        assert set(values.values()) == {1.0}
    else:
        assert isinstance(recipe, GeneratingRecipe)
        targets = [example.fields["target"] for example in data]
        targets = [target if isinstance(target, str) else target["content"] for target in targets]
        values = recipe.measure_texts(targets, [np.zeros(2) for _ in data], data).values()
        assert values["loss"] == 0
    assert next(iter(values)) == recipe.metrics[0]
    assert set(recipe.metrics) <= set(values)


def test_max_length_is_bounded_by_the_tokenizer_and_leaves_room_for_text(
    recipe: Recipe, tmp_path: Path
) -> None:
    tokenizer = wordpiece(tmp_path)
    tokenizer.eos_token = "[SEP]"
    data = recipe.read(ROWS[recipe.name])
    assert recipe.resolve(tokenizer, data, max_length=10_000)["max_length"] == 64
    with pytest.raises(
        InvalidSettings, match="max_length=2 leaves no room for text: the tokenizer adds 2 special"
    ):
        recipe.resolve(tokenizer, data, max_length=2)


def test_a_tokenizer_without_padding_is_refused_where_padding_means_something(recipe: Recipe) -> None:
    tokenizer = byte_level()
    tokenizer.pad_token = None
    if recipe.task == "text-generation":  # padding stands behind a row, and nothing looks there
        row = {"input_ids": [5], "labels": [5], "other_input_ids": [5], "other_labels": [5]}
        assert recipe.collator(tokenizer)([row])["attention_mask"].unique().tolist() == [1]
        return
    with pytest.raises(InvalidSettings, match="no padding token"):
        recipe.collator(tokenizer)


def test_recipes_are_found_by_name_and_near_names_suggested() -> None:
    assert find_recipe("ner") is RECIPES["ner"]
    with pytest.raises(InvalidSettings, match=r"unknown task 'sentimnt'\. Did you mean 'sentiment'\?"):
        find_recipe("sentimnt")


def test_the_catalogue_needs_no_torch() -> None:
    import subprocess
    import sys

    script = (
        "import sys, adapthub.recipes.catalog; print({'torch', 'transformers', 'sklearn'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
