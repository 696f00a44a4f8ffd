"""Splits: finding their files in a folder, making a missing validation split, counting rows that leak or repeat.

Does not read the files it finds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from adapthub.adapters.errors import InvalidData
from adapthub.recipes.data.dataset import Dataset, Example
from adapthub.recipes.data.pictures import has_pictures

_STEMS = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
_SUFFIXES = (".conll", ".txt", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")


def find_splits(data: Path) -> dict[str, Path]:
    """Which file is which split: {"train": ..., "validation": ..., "test": ...}.

    A file is its own training split, and so is a folder with a metadata.* that lists its files, or of folders of pictures;
    any other folder holds train.*, maybe validation.* (valid, val, dev) and test.*, or folders of these names.
    Raises InvalidData: nothing there, no training file, or two files for one split.
    """
    if data.is_file() or any(data.glob("metadata.*")):
        return {"train": data}
    if not data.is_dir():
        raise InvalidData(f"{data}: no such file or folder")
    found: dict[str, Path] = {}
    for split, stems in _STEMS.items():
        files = sorted(
            path for path in data.iterdir() if path.stem in stems and path.suffix.lower() in _SUFFIXES
        ) or sorted(path for path in data.iterdir() if path.name in stems and path.is_dir())
        if len(files) > 1:
            raise InvalidData(
                f"{data}: {files[0].name} and {files[1].name} could both be the {split} split",
                hint="Name the files one by one.",
            )
        if files:
            found[split] = files[0]
    if not found and has_pictures(data):
        return {"train": data}
    if "train" not in found:
        names = ", ".join(sorted(path.name for path in data.iterdir())[:10]) or "nothing"
        raise InvalidData(
            f"{data}: no training file; the folder holds {names}",
            hint=f"Name it train with one of {' '.join(_SUFFIXES)}.",
        )
    return found


def split_off(
    dataset: Dataset, labels_of: Callable[[Example], frozenset[str]], share: float = 0.1
) -> tuple[Dataset, Dataset]:
    """(the rest, about `share` of the rows); depends on neither a seed nor the order of rows.

    Rows are taken by the sha256 of their input, so equal inputs fall on one side; a row whose label would
    then be missing from the rest stays. The source of both says so. Raises InvalidData where nothing can be
    taken.
    """
    groups: dict[str, list[int]] = {}
    for index, example in enumerate(dataset):
        groups.setdefault(example.input_digest, []).append(index)
    left = Counter(label for example in dataset for label in labels_of(example))
    wanted = max(1, round(share * len(dataset)))
    taken: set[int] = set()
    for digest in sorted(groups):
        indices = groups[digest]
        losing = Counter(label for index in indices for label in labels_of(dataset[index]))
        if len(taken) + len(indices) <= wanted and all(
            left[label] > count for label, count in losing.items()
        ):
            taken.update(indices)
            left -= losing
    if not taken:
        raise InvalidData(
            f"{dataset.source}: {len(dataset)} rows are too few to set some aside for validation",
            hint="Give a validation split or more rows, or train without (validation=False, --no-validation).",
        )
    rest = tuple(example for index, example in enumerate(dataset) if index not in taken)
    aside = tuple(example for index, example in enumerate(dataset) if index in taken)
    return (
        replace(dataset, examples=rest, source=f"{dataset.source} (without rows set aside)"),
        replace(dataset, examples=aside, source=f"{dataset.source} (rows set aside)"),
    )


def leaked(train: Dataset, other: Dataset) -> int:
    """How many rows of `other` have an input that also stands in `train`."""
    known = {example.input_digest for example in train}
    return sum(example.input_digest in known for example in other)


def repeated(dataset: Dataset) -> tuple[int, int]:
    """How many rows have the input of an earlier row, and how many of them are labelled otherwise than that
    input was before.
    """
    seen: dict[str, set[str]] = {}
    repeats = contradictions = 0
    for example in dataset:
        before = seen.setdefault(example.input_digest, set())
        repeats += bool(before)
        contradictions += bool(before) and example.digest not in before
        before.add(example.digest)
    return repeats, contradictions
