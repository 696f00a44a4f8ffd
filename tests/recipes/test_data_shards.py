"""Splits in several Parquet files, as the datasets library writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Features, Value
from datasets import Dataset as Table

from adapthub.adapters.errors import InvalidData
from adapthub.cli.data import find_split
from adapthub.recipes import plan
from adapthub.recipes.catalog import find_recipe
from adapthub.recipes.data.records import mapped_parquet
from adapthub.recipes.data.shards import shards_of
from adapthub.recipes.data.splits import find_splits
from adapthub.recipes.data.tables import read_records

KINDS = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
HASH = "-0123456789abcdef"


def write(folder: Path, split: str, rows: int, shards: int, *, behind: str = "") -> list[Path]:
    """`rows` reviews in `shards` files, named as `push_to_hub` names them."""
    folder.mkdir(exist_ok=True)
    table = Table.from_dict(
        {"text": [f"film {split} {at}" for at in range(rows)], "label": [at % 2 for at in range(rows)]},
        features=KINDS,
    )
    files = [folder / f"{split}-{at:05}-of-{shards:05}{behind}.parquet" for at in range(shards)]
    for at, file in enumerate(files):
        table.shard(shards, at, contiguous=True).to_parquet(str(file))
    return files


@pytest.mark.parametrize("behind", ["", HASH])
def test_a_folder_of_shards_is_read_in_their_order(tmp_path: Path, behind: str) -> None:
    files = write(tmp_path / "data", "train", 25, 3, behind=behind)
    write(tmp_path / "data", "test", 4, 1, behind=behind)
    found = find_splits(tmp_path / "data")
    assert found == {
        "train": tmp_path / "data" / "train-*-of-00003.parquet",
        "test": tmp_path / "data" / "test-*-of-00001.parquet",
    }
    assert shards_of(found["train"]) == files
    records = read_records(found["train"])
    assert [row.values["text"] for row in records.rows] == [f"film train {at}" for at in range(25)]
    assert [row.line for row in records.rows] == [*range(1, 26)]
    assert {row.values["label"] for row in records.rows} == {"bad", "good"}
    assert records.where(records.rows[24]) == f"{found['train']}:row 25"
    assert mapped_parquet(found["train"])["text"][:] == [f"film train {at}" for at in range(25)]
    assert find_split(str(tmp_path / "data"), "test") == found["test"]


def test_shards_are_what_one_file_of_them_is(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where they are large, and read some rows at a time."""
    for folder, shards in (("one", 1), ("three", 3)):
        write(tmp_path / folder, "train", 40, shards)
    recipe = find_recipe("sentiment")
    one, three = (recipe.read(find_splits(tmp_path / folder)["train"]) for folder in ("one", "three"))
    assert three.fingerprint == one.fingerprint

    def planned(data: Any) -> Any:
        found = plan("sentiment", data, base=str(tiny_base), validation=False, max_steps=1)
        return found.splits[0].rows, found.splits[0].classes, found.splits[0].lengths

    small = planned(tmp_path / "three")
    monkeypatch.setattr("adapthub.recipes.prepared.LEAST_BYTES", 0)
    assert planned(tmp_path / "three") == planned(tmp_path / "one") == small
    assert planned(tmp_path / "three" / "train-*.parquet") == small
    write(tmp_path / "three", "train", 30, 3)
    assert planned(tmp_path / "three")[0] == 30


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    files = write(tmp_path / "data", "train", 25, 4)
    files[1].unlink()
    files[3].unlink()
    pattern = find_splits(tmp_path / "data")["train"]
    lost = "missing of 4 shards: train-00001-of-00004.parquet, train-00003-of-00004.parquet"
    for read in (read_records, mapped_parquet, shards_of):
        with pytest.raises(InvalidData, match=lost):
            read(pattern)
    with pytest.raises(InvalidData, match=lost):
        find_recipe("image").read(pattern)


def test_what_could_be_several_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write(folder, "train", 8, 2)
    write(folder, "train", 8, 4)
    with pytest.raises(InvalidData, match="could both be the train split"):
        find_splits(folder)
    with pytest.raises(InvalidData, match="are no shards of one split"):
        shards_of(folder / "train-*.parquet")
    with pytest.raises(InvalidData, match="no file matches"):
        shards_of(folder / "dev-*.parquet")
    write(folder, "test", 8, 2)
    write(folder, "test", 8, 2, behind=HASH)
    with pytest.raises(InvalidData, match="are the same shard"):
        shards_of(folder / "test-*-of-00002.parquet")


def test_shards_have_one_set_of_columns(tmp_path: Path) -> None:
    files = write(tmp_path / "data", "train", 8, 2)
    Table.from_dict({"text": ["a"], "stars": [1]}).to_parquet(str(files[1]))
    with pytest.raises(
        InvalidData, match=r"00001-of-00002\.parquet: the columns are 'text', 'stars', and not"
    ):
        read_records(tmp_path / "data" / "train-*-of-00002.parquet")


def test_columns_may_stand_in_any_order(tmp_path: Path) -> None:
    files = write(tmp_path / "data", "train", 8, 2)
    read = Table.from_parquet(str(files[1]))
    read.select_columns(["label", "text"]).to_parquet(str(files[1]))
    pattern = tmp_path / "data" / "train-*-of-00002.parquet"
    records = read_records(pattern)
    assert [row.values["text"] for row in records.rows] == [f"film train {at}" for at in range(8)]
    assert [row.values["label"] for row in records.rows] == ["bad", "good"] * 4
    assert records.columns == ("text", "label")
    assert mapped_parquet(pattern)["text"][:] == [f"film train {at}" for at in range(8)]


def test_a_shard_may_be_empty_and_all_may_not(tmp_path: Path) -> None:
    files = write(tmp_path / "data", "train", 8, 2)
    empty = Table.from_dict({"text": [], "label": []}, features=KINDS)
    empty.to_parquet(str(files[0]))
    pattern = tmp_path / "data" / "train-*-of-00002.parquet"
    assert len(read_records(pattern).rows) == 4
    empty.to_parquet(str(files[1]))
    for read in (read_records, mapped_parquet):
        with pytest.raises(InvalidData, match="has no rows"):
            read(pattern)


def test_a_name_with_a_star_is_a_file_where_there_is_one(tmp_path: Path) -> None:
    path = tmp_path / "a*b.jsonl"
    path.write_text(json.dumps({"text": "film", "label": "good"}) + "\n")
    assert len(read_records(path).rows) == 1
    file = tmp_path / "c*d.parquet"
    Table.from_dict({"text": ["film"]}).to_parquet(str(file))
    assert len(read_records(file).rows) == 1
