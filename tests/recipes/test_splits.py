"""The splits of a run: from a file, a folder, a mapping; completed where one is missing; leaks told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from adapthub.adapters.errors import InvalidData
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


def test_splits_by_other_names_are_found_and_what_is_not_used_is_said() -> None:
    data = {"training": rows(0, 8), "dev": rows(8, 10), "eval": rows(10, 13), "unlabelled": rows(13, 14)}
    read = read_splits(SENTIMENT, data)
    assert sizes(read) == {"train": 8, "validation": 2, "test": 3}
    assert read[1] == ("the data has 'unlabelled' besides, which is not used",)
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
