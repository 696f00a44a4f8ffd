"""Folders that the datasets library saved: read as what was saved, whole or a split of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from adapthub.adapters.errors import InvalidData
from adapthub.cli.data import find_split
from adapthub.recipes import plan
from adapthub.recipes.catalog import find_recipe
from adapthub.recipes.data.saved import is_saved, opened, saved_splits
from adapthub.recipes.data.splits import find_splits
from adapthub.recipes.splits import read_splits

FEATURES = datasets.Features(
    {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
)


def table(start: int, stop: int) -> datasets.Dataset:
    rows = [{"text": f"text {at}", "label": at % 2} for at in range(start, stop)]
    return datasets.Dataset.from_list(rows, features=FEATURES)


def save(saved: Any, folder: Path) -> Path:
    saved.save_to_disk(str(folder))
    return folder


def test_splits_are_read_as_the_mapping_that_was_saved(tmp_path: Path, tiny_base: Path) -> None:
    whole = datasets.DatasetDict({"train": table(0, 8), "dev": table(8, 12), "unsupervised": table(12, 14)})
    folder, recipe = save(whole, tmp_path / "saved"), find_recipe("sentiment")
    (found, notes), (wanted, told) = read_splits(recipe, folder), read_splits(recipe, whole)
    assert {name: split.fingerprint for name, split in found.items()} == {
        name: split.fingerprint for name, split in wanted.items()
    }
    assert notes == told == ("the data has 'unsupervised' besides, which is not used",)
    assert found["train"].source == str(folder / "train")
    assert found["validation"][1].source == f"{folder / 'dev'}:row 2"
    assert {example.fields["label"] for example in found["train"]} == {"bad", "good"}
    planned = plan("sentiment", folder, base=str(tiny_base))
    assert [(split.split, split.rows) for split in planned.splits] == [("train", 8), ("validation", 4)]
    assert planned.notes == notes


def test_one_saved_table_is_one_split(tmp_path: Path) -> None:
    """A folder for training, and folders of split names in one that nothing says more of."""
    recipe = find_recipe("sentiment")
    alone = save(table(0, 40), tmp_path / "alone")
    assert find_splits(alone) == {"train": alone}
    found, _ = read_splits(recipe, alone)
    assert {name: len(split) for name, split in found.items()} == {"train": 36, "validation": 4}
    for name, saved in (("train", table(0, 8)), ("test", table(8, 10))):
        save(saved, tmp_path / "both" / name)
    found, _ = read_splits(recipe, tmp_path / "both", validation=alone)
    assert {name: len(split) for name, split in found.items()} == {"train": 8, "validation": 40, "test": 2}


def test_a_split_of_a_saved_mapping_is_chosen_by_its_name(tmp_path: Path) -> None:
    folder = save(datasets.DatasetDict({"train": table(0, 8), "test": table(8, 10)}), tmp_path / "saved")
    assert find_split(str(folder), "test") == folder / "test"
    assert len(find_recipe("sentiment").read(opened(folder / "test"))) == 2
    with pytest.raises(InvalidData, match="holds the splits 'train', 'test', and one is read here. Name its"):
        opened(folder)
    save(datasets.DatasetDict({"one": table(0, 8)}), tmp_path / "other")
    with pytest.raises(InvalidData, match="the data has no split 'train', only 'one'"):
        find_splits(tmp_path / "other")


def test_words_and_pictures_are_read_too(tmp_path: Path) -> None:
    import io

    from PIL import Image

    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=["O", "B-PER"])),
        }
    )
    words = datasets.Dataset.from_list([{"tokens": ["ada", "slept"], "ner_tags": [1, 0]}], features=features)
    (example,) = find_recipe("ner").read(opened(save(words, tmp_path / "words")))
    assert example.fields == {"tokens": ["ada", "slept"], "labels": ["B-PER", "O"]}
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "PNG")
    rows = [{"image": {"bytes": stream.getvalue(), "path": None}, "label": 0}]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["red"])})
    pictures = save(datasets.Dataset.from_list(rows, features=features), tmp_path / "pictures")
    read: Any = find_recipe("image").read(opened(pictures))
    assert read.bytes_of(read[0]) == stream.getvalue()
    assert (read[0].fields["label"], read[0].source) == ("red", f"{pictures}:row 1")


def test_what_is_broken_is_named(tmp_path: Path) -> None:
    folder = save(table(0, 8), tmp_path / "saved")
    (arrow,) = folder.glob("*.arrow")
    arrow.write_bytes(b"no Arrow file")
    with pytest.raises(InvalidData, match="saved: the datasets library cannot read it: .* Save it anew"):
        opened(folder)
    (folder / "state.json").write_text("{")
    with pytest.raises(InvalidData, match="the datasets library cannot read it"):
        opened(str(folder))
    (folder / "state.json").unlink()
    assert not is_saved(folder)
    assert opened(folder) == folder
    (folder / "dataset_dict.json").write_text(json.dumps(["train"]))
    with pytest.raises(InvalidData, match=r"dataset_dict.json: not what save_to_disk writes"):
        saved_splits(folder)
