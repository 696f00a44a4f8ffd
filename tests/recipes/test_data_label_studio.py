"""Label Studio's full JSON export, as its text labelling and text classification templates make it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adapthub.adapters.errors import InvalidData
from adapthub.recipes.catalog import find_recipe
from adapthub.recipes.data.dataset import Dataset
from adapthub.recipes.prepared import prepare_splits


def annotation(*results: dict[str, Any], cancelled: bool = False) -> dict[str, Any]:
    return {
        "id": 7,
        "completed_by": 1,
        "result": [*results],
        "was_cancelled": cancelled,
        "ground_truth": False,
    }


def task(text: str, *annotations: dict[str, Any], number: int = 1) -> dict[str, Any]:
    data = {"text": text, "author": "ada"}
    return {"id": number, "annotations": [*annotations], "drafts": [], "predictions": [], "data": data}


def span(start: int, end: int, text: str, label: str, name: str = "label") -> dict[str, Any]:
    value = {"start": start, "end": end, "text": text, "labels": [label]}
    return {
        "value": value,
        "id": "x",
        "from_name": name,
        "to_name": "text",
        "type": "labels",
        "origin": "manual",
    }


def choice(*choices: str, name: str = "mood", **place: int) -> dict[str, Any]:
    value = {**place, "choices": [*choices]}
    return {
        "value": value,
        "id": "x",
        "from_name": name,
        "to_name": "text",
        "type": "choices",
        "origin": "manual",
    }


def read(recipe: str, folder: Path, tasks: list[dict[str, Any]], **options: Any) -> Dataset:
    path = folder / "export.json"
    path.write_text(json.dumps(tasks, indent=2))
    return find_recipe(recipe).read(path, **options)


def test_spans_of_the_first_annotation_that_was_not_cancelled(tmp_path: Path) -> None:
    ada, london = span(0, 3, "Ada", "PER", name="ner"), span(0, 6, "London", "LOC", name="ner")
    tasks = [
        task("Ada slept", annotation(ada)),
        task("London slept", annotation(ada, cancelled=True), annotation(london), annotation(), number=2),
        task("Nobody slept", annotation(), number=3),
        task("Bob slept", annotation(ada, cancelled=True), number=4),
        task("Eve slept", number=5),
    ]
    data = read("ner", tmp_path, tasks, group_column="author")
    assert [(example.fields["tokens"], example.fields["labels"]) for example in data] == [
        (["Ada", "slept"], ["B-PER", "O"]),
        (["London", "slept"], ["B-LOC", "O"]),
        (["Nobody", "slept"], ["O", "O"]),
    ]
    where = tmp_path / "export.json"
    assert data.notes == (
        f"2 tasks have no annotation, or cancelled ones alone, and are left out, the first at {where}:row 4",
        f"1 tasks have several annotations, of which the first that was not cancelled is read, the first at {where}:row 2",
    )
    assert data[1].source == f"{where}:row 2"
    assert data[0].fields["group"] == "ada"


@pytest.mark.parametrize("recipe", ["classify", "sentiment"])
def test_a_choice_for_a_whole_text(tmp_path: Path, recipe: str) -> None:
    tasks = [
        task("fine", annotation(choice("good"), choice("word", name="parts", start=0, end=2))),
        task("poor", annotation(choice("bad"), span(0, 4, "poor", "X")), number=2),
        task("new", number=3),
    ]
    data = read(recipe, tmp_path, tasks)
    assert [example.fields for example in data] == [
        {"text": "fine", "label": "good"},
        {"text": "poor", "label": "bad"},
    ]
    assert data.columns["label"] == "mood"
    assert len(data.notes) == 1
    with pytest.raises(InvalidData, match="row 2: the label in column 'mood' is empty"):
        read(recipe, tmp_path, [tasks[0], task("poor", annotation(), number=2)])


def test_several_choices_are_lists(tmp_path: Path) -> None:
    tasks = [task(text, annotation(choice(*said))) for text, said in (("a", "xy"), ("b", "x"), ("c", ""))]
    data = read("classify", tmp_path, tasks)
    assert [example.fields["labels"] for example in data] == [["x", "y"], ["x"], []]


def test_of_several_controls_one_is_named(tmp_path: Path) -> None:
    tasks = [task("a", annotation(choice("good"), choice("film", name="topic")))]
    with pytest.raises(InvalidData, match="of several controls: 'mood', 'topic'"):
        read("classify", tmp_path, tasks)
    assert read("classify", tmp_path, tasks, label_column="topic")[0].fields["label"] == "film"
    with pytest.raises(
        InvalidData, match="no column 'kind'; the columns are 'id', 'text', 'author', 'mood', 'topic'"
    ):
        read("classify", tmp_path, tasks, label_column="kind")


def test_what_has_no_such_annotation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="no annotation of these tasks has labels"):
        read("ner", tmp_path, [task("a", annotation(choice("good")))])
    with pytest.raises(InvalidData, match="no annotation of these tasks has choices"):
        read("classify", tmp_path, [task("a")])
    for odd in ({"text": "a"}, {"data": {"text": "a"}, "annotations": [3]}):
        with pytest.raises(InvalidData, match="row 2: no task of Label Studio's"):
            read("classify", tmp_path, [task("a", annotation(choice("good"))), odd])


def prepared(
    recipe: str, folder: Path, tasks: list[dict[str, Any]], patch: pytest.MonkeyPatch
) -> tuple[Dataset, tuple[str, ...]]:
    """The training split and the labels of a large export, each row of which would be a part of other files."""
    patch.setattr("adapthub.recipes.prepared.LEAST_BYTES", 0)
    patch.setattr("adapthub.recipes.data.tables._BLOCK", 1)
    path = folder / "export.json"
    path.write_text(json.dumps(tasks))
    splits, labels, _ = prepare_splits(find_recipe(recipe), path, validation=False, test=None, options={})
    return splits["train"], labels


@pytest.mark.parametrize("name", ["label", "ner"])
def test_a_large_export_may_begin_with_tasks_that_are_not_annotated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    ada = span(0, 3, "Ada", "PER", name=name)
    tasks = [
        task("Eve slept"),
        task("Nobody", annotation(), number=2),
        task("Ada slept", annotation(ada), number=3),
    ]
    train, labels = prepared("ner", tmp_path, tasks, monkeypatch)
    assert labels == ("O", "B-PER")
    assert [example.fields["tokens"] for example in train] == [["Nobody"], ["Ada", "slept"]]
    assert "1 tasks have no annotation" in train.notes[0]


def test_a_large_export_may_have_several_choices_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"a": "x", "b": "", "c": "xy"}
    tasks = [task(text, annotation(choice(*choices))) for text, choices in said.items()]
    train, labels = prepared("classify", tmp_path, tasks, monkeypatch)
    assert labels == ("x", "y")
    assert [example.fields["labels"] for example in train] == [["x"], [], ["x", "y"]]
