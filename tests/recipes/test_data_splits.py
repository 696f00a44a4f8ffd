"""Datasets and splits: fingerprints, files of a folder, a validation split that content alone decides."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapthub.adapters.errors import InvalidData
from adapthub.recipes.data import splits
from adapthub.recipes.data.dataset import GROUP, Dataset, Example
from adapthub.recipes.data.splits import find_splits, group_keys, leaked, repeated, split_off


def dataset(rows: Sequence[tuple[str, str]], path: str = "a.csv") -> Dataset:
    examples = tuple(
        Example({"text": text, "label": label}, path, line)
        for line, (text, label) in enumerate(rows, start=2)
    )
    return Dataset(examples, path, {"text": "text", "label": "label"})


def labels_of(example: Example) -> frozenset[str]:
    return frozenset((example.fields["label"],))


def texts(data: Dataset) -> list[str]:
    return [example.fields["text"] for example in data]


def test_the_fingerprint_is_the_rows_in_order_and_nothing_else() -> None:
    rows = [("a", "x"), ("b", "y")]
    assert dataset(rows).fingerprint == dataset(rows, "elsewhere.csv").fingerprint
    assert dataset(rows).fingerprint.startswith("sha256:")
    others = [rows[::-1], rows[:1], [*rows, rows[0]], [("a", "y"), ("b", "x")], [("ab", "x"), ("", "y")]]
    assert len({dataset(other).fingerprint for other in (rows, *others)}) == 6


def test_the_input_digest_ignores_the_label() -> None:
    first, second, third = dataset([("a", "x"), ("a", "y"), ("b", "x")])
    assert first.input_digest == second.input_digest != third.input_digest
    assert first.digest != second.digest


def test_a_folder_names_its_splits_by_file(tmp_path: Path) -> None:
    for name in ("train.conll", "dev.conll", "test.conll", "README.md"):
        (tmp_path / name).write_text("x")
    assert {split: path.name for split, path in find_splits(tmp_path).items()} == {
        "train": "train.conll",
        "validation": "dev.conll",
        "test": "test.conll",
    }
    assert find_splits(tmp_path / "README.md") == {"train": tmp_path / "README.md"}


def test_splits_are_found_in_letters_of_any_case(tmp_path: Path) -> None:
    for name in ("Train.csv", "Test.csv", "VAL.csv"):
        (tmp_path / name).write_text("x")
    found = {"train": "Train.csv", "validation": "VAL.csv", "test": "Test.csv"}
    assert {split: path.name for split, path in find_splits(tmp_path).items()} == found
    for place in ("split/Training/cat", "split/Testing/cat", "vehicles/Train", "vehicles/Bus"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "1.png").touch()
    names = {split: path.name for split, path in find_splits(tmp_path / "split").items()}
    assert names == {"train": "Training", "test": "Testing"}
    assert find_splits(tmp_path / "vehicles") == {"train": tmp_path / "vehicles"}


def test_folders_of_splits_in_small_letters_are_no_labels(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "1.png").touch()
    assert find_splits(tmp_path) == {split: tmp_path / split for split in ("train", "test")}


def test_a_document_of_ones_own_beside_the_splits_hides_none(tmp_path: Path) -> None:
    """metadata.json is none of the tables that list a folder's files."""
    for place in ("train/cat", "test/cat"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "1.png").touch()
    (tmp_path / "metadata.json").write_text("{}")
    assert find_splits(tmp_path) == {"train": tmp_path / "train", "test": tmp_path / "test"}
    (tmp_path / "metadata.csv").write_text("file_name,label\n")
    assert find_splits(tmp_path) == {"train": tmp_path}


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = tmp_path / "lost+found"
    locked.mkdir()
    iterdir = Path.iterdir

    def refuses(folder: Path) -> Iterator[Path]:
        if folder == locked:
            raise PermissionError(13, "Permission denied", str(folder))
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", refuses)
    with pytest.raises(InvalidData, match=r"lost\+found: cannot be read: Permission denied"):
        find_splits(tmp_path)


def test_folders_that_are_unclear_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="no such file or folder"):
        find_splits(tmp_path / "gone")
    with pytest.raises(InvalidData, match="no training file; the folder holds nothing"):
        find_splits(tmp_path)
    (tmp_path / "train.csv").touch()
    (tmp_path / "val.csv").touch()
    (tmp_path / "dev.csv").touch()
    with pytest.raises(InvalidData, match=r"dev\.csv and val\.csv could both be the validation split"):
        find_splits(tmp_path)


@given(st.lists(st.tuples(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), st.sampled_from("xy")), min_size=30))
def test_a_split_is_a_partition_without_leaks_that_keeps_every_label(rows: list[tuple[str, str]]) -> None:
    whole = dataset(rows)
    try:
        rest, aside = split_off(whole, labels_of)
    except InvalidData:
        # No group of equal inputs can go: each holds more than a tenth of the rows, or the last of a label.
        sizes = [sum(text == one for text, _ in rows) for one in {text for text, _ in rows}]
        labels = [label for _, label in rows]
        assert min(sizes) > round(0.1 * len(rows)) or min(labels.count("x"), labels.count("y")) <= max(sizes)
        return
    assert sorted(e.line for e in (*rest, *aside)) == [e.line for e in whole]
    for part in (rest, aside):
        assert [e.line for e in part] == sorted(e.line for e in part)
    assert not set(texts(rest)) & set(texts(aside))
    assert leaked(rest, aside) == 0
    assert {e.fields["label"] for e in rest} == {label for _, label in rows}
    assert 0 < len(aside) <= max(1, round(0.1 * len(rows)))


def test_the_split_does_not_depend_on_the_order_of_rows() -> None:
    rows = [(f"text {index}", "xy"[index % 2]) for index in range(200)]
    _, aside = split_off(dataset(rows), labels_of)
    shuffled = random.Random(0).sample(rows, len(rows))
    _, again = split_off(dataset(shuffled), labels_of)
    assert len(aside) == 20
    assert sorted(texts(aside)) == sorted(texts(again))


def test_of_many_rows_no_more_are_set_aside_than_measuring_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "MOST_SET_ASIDE", 7)
    rest, aside = split_off(dataset([(f"text {index}", "xy"[index % 2]) for index in range(200)]), labels_of)
    assert (len(rest), len(aside)) == (193, 7)


def test_what_was_split_says_so_in_its_source() -> None:
    rest, aside = split_off(dataset([(f"text {index}", "xy"[index % 2]) for index in range(20)]), labels_of)
    assert (rest.source, aside.source) == ("a.csv (without rows set aside)", "a.csv (rows set aside)")


def test_of_a_few_rows_one_is_set_aside() -> None:
    _, aside = split_off(dataset([(f"text {index}", "x") for index in range(4)]), labels_of)
    assert len(aside) == 1


def test_of_a_rare_label_not_all_rows_are_set_aside_one_by_one() -> None:
    rest, aside = split_off(dataset([(f"text {index}", f"{index // 2}") for index in range(1000)]), labels_of)
    assert len(aside) == 100
    assert len({e.fields["label"] for e in rest}) == 500


def test_too_few_rows_to_split_are_refused() -> None:
    with pytest.raises(InvalidData, match="2 rows are too few to set some aside"):
        split_off(dataset([("a", "x"), ("b", "y")]), labels_of)


def grouped(rows: Sequence[str]) -> Dataset:
    """A row for each letter: its group."""
    examples = tuple(
        Example({"text": f"text {line}", "label": "x", GROUP: group}, "a.csv", line)
        for line, group in enumerate(rows, start=2)
    )
    return Dataset(examples, "a.csv", {"text": "text", "label": "label", GROUP: "patient"})


@given(st.lists(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), min_size=30))
def test_groups_are_never_parted(rows: list[str]) -> None:
    whole = grouped(rows)
    keys = group_keys(whole, GROUP)
    assert len(set(keys.tolist())) == len(set(rows))
    if min(map(rows.count, rows)) > len(rows) // 2:
        with pytest.raises(InvalidData, match="rows in 1 groups that stay together are too few"):
            split_off(whole, labels_of, groups=keys)
        return
    rest, aside = split_off(whole, labels_of, groups=keys)
    assert sorted(e.line for e in (*rest, *aside)) == [e.line for e in whole]
    assert not {e.fields[GROUP] for e in rest} & {e.fields[GROUP] for e in aside}
    wanted, sizes = round(0.1 * len(rows)), {group: rows.count(group) for group in rows}
    taken = {example.fields[GROUP] for example in aside}
    others = [size for group, size in sizes.items() if group not in taken]
    assert 2 * len(aside) >= wanted or min(others) > len(rows) // 2 - len(aside)
    large = max(sizes[group] for group in taken)
    assert len(aside) <= wanted or 2 * (len(aside) - large) < wanted
    assert 0 < 2 * len(aside) <= len(rows)


def test_one_small_group_beside_large_ones_is_not_all_that_is_set_aside() -> None:
    whole = grouped("a" * 3 + "".join(patient * 120 for patient in "bcdefghi") + "j" * 119)
    _, aside = split_off(whole, labels_of, groups=group_keys(whole, GROUP))
    assert {e.fields[GROUP] for e in aside} == {"a", "j"}


@pytest.mark.parametrize(
    "rows",
    [
        "a" * 6 + "b" * 31 + "c" * 31 + "d" * 32,  # more than half of what is wanted is there
        "a" * 3 + "b" * 49 + "c" * 48,  # with any other it would be more than half of the rows
    ],
)
def test_a_small_group_is_all_that_is_set_aside(rows: str) -> None:
    whole = grouped(rows)
    _, aside = split_off(whole, labels_of, groups=group_keys(whole, GROUP))
    assert {e.fields[GROUP] for e in aside} == {"a"}


def test_a_large_group_is_not_set_aside_with_the_last_rows_of_a_label() -> None:
    whole = grouped("a" * 3 + "b" * 40 + "c" * 57)

    def own(example: Example) -> frozenset[str]:
        return frozenset(("y" if example.fields[GROUP] == "b" else "x",))

    _, aside = split_off(whole, own, groups=group_keys(whole, GROUP))
    assert {e.fields[GROUP] for e in aside} == {"a"}


def test_a_group_is_no_part_of_an_input() -> None:
    first, second = (Example({"text": "a", GROUP: group}, "a.csv", 1) for group in "xy")
    assert first.input_digest == second.input_digest
    assert first.digest == second.digest
    assert first.group_digest(GROUP) != second.group_digest(GROUP)
    alone = Example({"text": "a"}, "a.csv", 1)
    assert alone.group_digest(GROUP) == alone.input_digest


def test_leaks_are_counted_by_input() -> None:
    train = dataset([("a", "x"), ("b", "y")])
    assert leaked(train, dataset([("a", "y"), ("a", "x"), ("c", "x")])) == 2


def test_repeats_are_counted_and_those_labelled_otherwise() -> None:
    assert repeated(dataset([("a", "x"), ("b", "y")])) == (0, 0)
    assert repeated(dataset([("a", "x"), ("a", "x"), ("a", "y"), ("b", "y"), ("a", "x")])) == (3, 1)
    assert repeated(dataset([("a", "x"), ("a", "y"), ("a", "y")])) == (2, 1)
