"""The splits of a run: from a file, a folder, a mapping; completed where one is missing; leaks told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from adapthub.adapters.errors import InvalidData, InvalidSettings
from adapthub.recipes.catalog import RECIPES, find_recipe
from adapthub.recipes.data.dataset import GROUP
from adapthub.recipes.data.groups import group_of
from adapthub.recipes.sentiment import Sentiment
from adapthub.recipes.splits import read_splits

SENTIMENT = Sentiment()


def rows(start: int, stop: int) -> list[dict[str, Any]]:
    return [{"text": f"text {index}", "label": "ab"[index % 2]} for index in range(start, stop)]


def write(path: Path, content: list[dict[str, Any]]) -> Path:
    path.write_text("review,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in content))
    return path


def sizes(read: tuple[dict[str, Any], tuple[str, ...]]) -> dict[str, int]:
    return {name: len(dataset) for name, dataset in read[0].items()}


def test_a_lone_file_is_split_and_says_so(tmp_path: Path) -> None:
    read = read_splits(SENTIMENT, str(write(tmp_path / "all.csv", rows(0, 40))))
    assert sizes(read) == {"train": 36, "validation": 4}
    assert read[1] == (
        "validation: no such split given, so 4 of 40 training rows are set aside, chosen by their content",
    )


def preferences(start: int, stop: int) -> list[dict[str, Any]]:
    """Two pairs a prompt."""
    return [
        {"prompt": f"prompt {index // 2}", "chosen": f"good {index}", "rejected": f"bad {index}"}
        for index in range(start, stop)
    ]


def questions(start: int, stop: int) -> list[dict[str, Any]]:
    """Four questions a context, one of them without an answer."""
    return [
        {
            "question": f"who {index}",
            "context": f"ada {index // 4}",
            "answers": [{"text": "ada", "answer_start": 0}] if index % 4 else [],
        }
        for index in range(start, stop)
    ]


def pairs(start: int, stop: int) -> list[dict[str, Any]]:
    """Two passages a query."""
    return [{"query": f"query {index // 2}", "passage": f"passage {index}"} for index in range(start, stop)]


def judged(start: int, stop: int) -> list[dict[str, Any]]:
    return [
        {"prompt": f"prompt {index // 2}", "completion": f"answer {index}", "label": index % 2 == 0}
        for index in range(start, stop)
    ]


@pytest.mark.parametrize(
    ("task", "made", "field", "aside"),
    [
        ("prefer", preferences, "prompt", 6),
        ("prefer", judged, "prompt", 6),
        ("qa", questions, "context", 4),
        ("embed", pairs, "query", 6),
    ],
)
def test_rows_that_belong_together_stay_together_and_it_is_said(
    task: str, made: Any, field: str, aside: int
) -> None:
    recipe = find_recipe(task)
    read, notes = read_splits(recipe, made(0, 60))
    assert (len(read["train"]), len(read["validation"])) == (60 - aside, aside)
    first, second = ({repr(e.fields[field]) for e in split} for split in read.values())
    assert not first & second
    assert notes == (
        f"validation: no such split given, so {aside} of 60 training rows are set aside, chosen by their content;"
        f" rows of one {field} stay together",
    )
    _, notes = read_splits(recipe, made(0, 41), validation=made(41, 45), test=made(40, 41))
    in_common = 3 if task == "qa" else 1
    assert f"validation: {in_common} of 4 rows have their {field} in common with the training split" in notes
    assert "test: 1 of 1 rows also stand in the training split" in notes
    assert not any(note.startswith("test") and "in common with the training" in note for note in notes)


ROWS: dict[str, Any] = {
    "ner": lambda at: {"tokens": ["ada", str(at)], "labels": ["B-PER", "O"]},
    "sentiment": lambda at: {"text": f"text {at}", "label": "ab"[at % 2]},
    "classify": lambda at: {"text": f"text {at}", "label": ["a", "b"][: 1 + at % 2]},
    "qa": lambda at: questions(at, at + 1)[0],
    "embed": lambda at: {"query": f"query {at}", "passage": f"passage {at}"},
    "chat": lambda at: {"prompt": f"prompt {at}", "completion": f"answer {at}"},
    "summarize": lambda at: {"text": f"text {at}", "summary": f"summary {at}"},
    "translate": lambda at: {"source": f"source {at}", "target": f"target {at}"},
    "prefer": lambda at: preferences(at, at + 1)[0],
    "speech": lambda at: {"audio": (np.full(1600, at / 100, np.float32), 16000), "text": f"text {at}"},
}


def test_every_recipe_of_records_can_be_told_what_belongs_together() -> None:
    assert {*RECIPES} == {*ROWS, "image", "medical-image"}
    assert all("group_column" in recipe.options for recipe in RECIPES.values())


@pytest.mark.parametrize("task", ROWS)
def test_rows_of_one_document_stay_together_where_a_column_says_so(task: str) -> None:
    """A row that is of none stands alone."""
    rows = [{**ROWS[task](at), "Origin": at % 9 or None} for at in range(60)]
    recipe = find_recipe(task)
    read, notes = read_splits(recipe, rows, group_column="Origin")
    first, second = ({e.fields.get(GROUP) for e in split} - {None} for split in read.values())
    assert first | second == set("12345678")
    assert not first & second
    assert any(note.endswith("by their content; rows of one Origin stay together") for note in notes)
    _, notes = read_splits(recipe, rows[:50], validation=rows[50:54], group_column="Origin")
    shared = "validation: 4 of 4 rows have their Origin in common with the training split"
    assert shared in notes
    plain = recipe.read([ROWS[task](at) for at in range(60)])
    assert plain.fingerprint == recipe.read(rows, group_column="Origin").fingerprint
    with pytest.raises(InvalidData, match="no column 'Orign'; .* Did you mean 'Origin'. Set group_column"):
        recipe.read(rows, group_column="Orign")


def test_documents_are_told_by_what_they_are_called_not_by_the_type_of_their_column() -> None:
    """A table with gaps has floats for whole numbers, and one that is no number for no value."""
    cells = ["7", 7, 7.0, 7.5, " a ", "", None, float("nan")]
    assert list(map(group_of, cells)) == ["7", "7", "7", "7.5", "a", None, None, None]


def test_documents_of_squad_are_told_by_title(tmp_path: Path) -> None:
    def paragraph(at: int) -> dict[str, Any]:
        answers = [{"text": "ada", "answer_start": 0}]
        return {"context": f"ada {at}", "qas": [{"question": f"who {at}", "id": str(at), "answers": answers}]}

    path, recipe = tmp_path / "train.json", find_recipe("qa")
    articles = [{"title": f"t{at // 2}", "paragraphs": [paragraph(at)]} for at in range(40)]
    path.write_text(json.dumps({"data": articles}))
    read, notes = read_splits(recipe, path, group_column="title")
    first, second = ({e.fields[GROUP] for e in split} for split in read.values())
    assert len(second) == 2
    assert not first & second
    assert any(note.endswith("rows of one title stay together") for note in notes)
    with pytest.raises(InvalidData, match="SQuAD's JSON has no column 'document'.*group_column=title"):
        recipe.read(path, group_column="document")
    assert recipe.read(path).columns.get(GROUP) is None


def test_words_of_conll_files_have_no_column_of_documents(tmp_path: Path) -> None:
    path = tmp_path / "train.conll"
    path.write_text("ada B-PER\n\n" * 4)
    with pytest.raises(InvalidSettings, match="CoNLL files are of words, and group_column is one of rows"):
        find_recipe("ner").read(path, group_column="2")


@pytest.mark.parametrize("task", ["translate", "summarize"])
def test_translations_of_one_source_stay_together(task: str) -> None:
    rows = [{"source": f"source {index // 2}", "target": f"target {index}"} for index in range(40)]
    read, _ = read_splits(find_recipe(task), rows)
    first, second = ({e.fields["source"] for e in split} for split in read.values())
    assert len(second) == 2
    assert not first & second


def test_a_folder_brings_its_splits_and_given_ones_go_first(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", rows(0, 10))
    write(tmp_path / "dev.csv", rows(10, 13))
    other = write(tmp_path / "other.csv", rows(20, 22))
    assert sizes(read_splits(SENTIMENT, tmp_path)) == {"train": 10, "validation": 3}
    read = read_splits(SENTIMENT, tmp_path, validation=other, test=rows(13, 17), text_column=None)
    assert sizes(read) == {"train": 10, "validation": 2, "test": 4}
    assert read[1] == ()


def test_reading_options_reach_every_split(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", rows(0, 10))
    write(tmp_path / "val.csv", rows(10, 13))
    read, _ = read_splits(SENTIMENT, tmp_path, text_column="label", label_column="review")
    assert {dataset.columns["text"] for dataset in read.values()} == {"label"}


def test_a_dataset_dict_is_a_mapping_of_splits() -> None:
    data = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(rows(0, 8)), "test": datasets.Dataset.from_list(rows(8, 10))}
    )
    assert sizes(read_splits(SENTIMENT, data, validation=rows(20, 22))) == {
        "train": 8,
        "validation": 2,
        "test": 2,
    }
    with pytest.raises(InvalidData, match="the data has no split 'train', only 'test'"):
        read_splits(SENTIMENT, {"test": rows(0, 2)})


def test_streams_of_the_datasets_library_are_read_as_it_reads_them() -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    known = datasets.Dataset.from_list(
        [{"text": f"text {at}", "label": at % 2} for at in range(20)], features=features
    )
    unknown = datasets.IterableDataset.from_generator(lambda: iter(rows(0, 20)))
    streams = datasets.IterableDatasetDict({"train": known.to_iterable_dataset()})
    read, _ = read_splits(SENTIMENT, streams)
    assert [dict(e.fields) for e in read["train"]] == [
        dict(e.fields) for e in read_splits(SENTIMENT, {"train": known})[0]["train"]
    ]
    assert {e.fields["label"] for e in read["train"]} == {"bad", "good"}
    read, _ = read_splits(SENTIMENT, unknown)
    assert sizes((read, ())) == {"train": 18, "validation": 2}
    with pytest.raises(InvalidData, match="the stream has no rows"):
        read_splits(SENTIMENT, known.to_iterable_dataset().take(0))


def test_splits_by_other_names_are_found_and_what_is_not_used_is_said() -> None:
    data = {"training": rows(0, 8), "dev": rows(8, 10), "eval": rows(10, 13), "unlabelled": rows(13, 14)}
    read = read_splits(SENTIMENT, data)
    assert sizes(read) == {"train": 8, "validation": 2, "test": 3}
    assert read[1] == ("the data has 'unlabelled' besides, which is not used",)
    assert sizes(read_splits(SENTIMENT, tuple(rows(0, 20)))) == {"train": 18, "validation": 2}
    with pytest.raises(InvalidData, match="'val' and 'dev' could both be the validation split"):
        read_splits(SENTIMENT, {"train": rows(0, 8), "val": rows(8, 9), "dev": rows(9, 10)})


def test_no_validation_is_wanted(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", rows(0, 10))
    write(tmp_path / "val.csv", rows(10, 13))
    assert read_splits(SENTIMENT, tmp_path, validation=False)[1] == ()
    assert sizes(read_splits(SENTIMENT, tmp_path, validation=False)) == {"train": 10}
    assert sizes(read_splits(SENTIMENT, rows(0, 3), validation=False)) == {"train": 3}


def test_what_is_wrong_is_said_before_what_is_too_little() -> None:
    with pytest.raises(InvalidData, match="every row has the label 'a'"):
        read_splits(SENTIMENT, rows(0, 1))
    with pytest.raises(InvalidData, match="2 rows are too few to set some aside.*--no-validation"):
        read_splits(SENTIMENT, rows(0, 2))


def test_leaks_and_repeats_are_told() -> None:
    _, notes = read_splits(SENTIMENT, rows(0, 10), validation=rows(8, 12), test=rows(11, 14))
    assert notes == (
        "validation: 2 of 4 rows also stand in the training split",
        "test: 1 of 3 rows also stand in the validation split",
    )
    train = [*rows(0, 10), *rows(0, 2), {"text": "text 0", "label": "b"}]
    _, notes = read_splits(SENTIMENT, train, validation=rows(12, 14))
    assert notes == ("train: 3 of 13 rows repeat an earlier one, 1 of them with other labels",)
