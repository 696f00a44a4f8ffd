"""Datasets of the Hub: streamed into files by the library that reads them, found again by commit.

The Hub itself is not asked here: the library reads a folder in its place."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import datasets
import httpx2
import pytest

from adapthub.adapters.errors import InvalidData, Unreachable
from adapthub.recipes.data import hub_datasets
from adapthub.recipes.data.hub_datasets import fetch_dataset
from adapthub.recipes.sentiment import Sentiment
from adapthub.recipes.splits import read_splits

COMMIT = hub_datasets._commit
FEATURES = datasets.Features(
    {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was loaded, of a dataset with the splits train, dev and unsupervised."""
    folder, loaded = tmp_path / "hub", list[str]()
    folder.mkdir()
    for split, rows in (("train", 2300), ("dev", 20), ("unsupervised", 5)):
        made = [{"text": f"{split} {at}", "label": at % 2} for at in range(rows)]
        datasets.Dataset.from_list(made, features=FEATURES).to_parquet(str(folder / f"{split}.parquet"))
    read = partial(datasets.load_dataset, "parquet")

    def load(repo: str, configuration: str | None, *, revision: str, streaming: bool) -> Any:
        loaded.append(f"{repo} {configuration} {revision[:3]}")
        if configuration == "none":
            raise ValueError("BuilderConfig 'none' not found")
        files = {path.stem: str(path) for path in sorted(folder.glob("*.parquet"))}
        return read(data_files=files, streaming=streaming)

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(hub_datasets, "_commit", lambda repo, revision: (revision or "abc") * 20)
    return loaded


def test_splits_become_files_with_labels_by_name_once_a_commit(hub: list[str], own_home: Path) -> None:
    said: list[str] = []
    folder = fetch_dataset("acme/reviews", said.append)
    assert folder.parent == own_home / "datasets"
    assert sorted(path.name for path in folder.iterdir()) == ["train.parquet", "validation.parquet"]
    read, _ = read_splits(Sentiment(), folder)
    assert {split: len(data) for split, data in read.items()} == {"train": 2300, "validation": 20}
    assert [e.fields for e in list(read["train"])[:2]] == [
        {"text": "train 0", "label": "bad"},
        {"text": "train 1", "label": "good"},
    ]
    assert fetch_dataset("acme/reviews", said.append) == folder
    assert (len(said), len(hub)) == (1, 1)
    assert fetch_dataset("acme/reviews@def:small", said.append) != folder
    assert hub == ["acme/reviews None abc", "acme/reviews small def"]


def test_a_split_whose_labels_a_benchmark_keeps_is_left_out_and_said(
    hub: list[str], own_home: Path, tmp_path: Path
) -> None:
    kept = [{"text": f"test {at}", "label": -1} for at in range(1500)]
    datasets.Dataset.from_list(kept, features=FEATURES).to_parquet(str(tmp_path / "hub" / "test.parquet"))
    said: list[str] = []
    folder = fetch_dataset("acme/reviews", said.append)
    assert sorted(path.name for path in folder.iterdir()) == ["train.parquet", "validation.parquet"]
    assert said[1:] == ["test: no row has a label, as where a benchmark keeps them: it is left out"]


def test_files_whose_columns_differ_are_said_and_leave_nothing(
    own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [tmp_path / "1.jsonl", tmp_path / "2.jsonl"]
    lines[0].write_text('{"text": "a", "label": "x"}\n')
    lines[1].write_text('{"text": "b", "label": "y", "title": "more"}\n')
    files = {"train": [str(path) for path in lines]}
    stream = datasets.load_dataset("json", data_files=files, streaming=True)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: stream)
    monkeypatch.setattr(hub_datasets, "_commit", lambda repo, revision: "abc" * 20)
    with pytest.raises(InvalidData, match=r"acme/reviews, train: rows from 1 on .* Couldn't cast .*title"):
        fetch_dataset("acme/reviews", print)
    assert not list((own_home / "datasets").glob("*"))


def test_what_is_not_there_leaves_nothing_behind(hub: list[str], own_home: Path) -> None:
    with pytest.raises(InvalidData, match="cannot read acme/reviews: BuilderConfig 'none' not found"):
        fetch_dataset("acme/reviews:none", print)
    with pytest.raises(InvalidData, match="'acme/reviews/more' is no dataset's name"):
        fetch_dataset("acme/reviews/more", print)
    assert not list((own_home / "datasets").glob("*"))


def test_a_hub_that_does_not_answer_is_said(own_home: Path) -> None:
    with pytest.raises(Unreachable, match="the dataset acme/reviews cannot be fetched"):
        fetch_dataset("acme/reviews", print)


@pytest.mark.parametrize("where", ["huggingface_hub.HfApi.dataset_info", "datasets.load_dataset", "stream"])
@pytest.mark.parametrize("failure", [httpx2.ConnectError("Connection refused"), httpx2.ReadTimeout("")])
def test_a_hub_that_is_cut_off_is_said_and_leaves_nothing(
    failure: Exception, where: str, hub: list[str], own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise failure

    if where == "huggingface_hub.HfApi.dataset_info":
        monkeypatch.setattr(hub_datasets, "_commit", COMMIT)
    monkeypatch.setattr(
        "adapthub.recipes.data.hub_datasets.named_rows" if where == "stream" else where, fails
    )
    with pytest.raises(Unreachable, match="the dataset acme/reviews cannot be fetched: (Conn|ReadT)"):
        fetch_dataset("acme/reviews", print)
    assert not list((own_home / "datasets").glob("*"))


def test_a_name_that_the_hub_has_none_of_is_said() -> None:
    with pytest.raises(InvalidData, match="'a--b/c' is no dataset's name"):
        fetch_dataset("a--b/c", print)
