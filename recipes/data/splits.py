"""Splits: finding their files in a folder, making a missing validation split, counting rows that leak or repeat.

Does not read the files it finds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from adapthub.adapters.errors import InvalidData
from adapthub.recipes.data.dataset import Dataset, Example
from adapthub.recipes.data.pictures import METADATA, has_pictures, listed
from adapthub.recipes.data.saved import is_saved, saved_splits
from adapthub.recipes.data.shards import is_pattern, patterns

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STEMS = {  # as the datasets library reads names
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
MOST_SET_ASIDE = (
    10_000  # rows: they tell a share within a point, and a tenth of a large file would be measured for hours
)
_SUFFIXES = (".conll", ".txt", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")


def name_splits(names: Iterable[str]) -> dict[str, str]:
    """Which of the `names` of splits is which: {"train": "train", "validation": "dev"}. Raises InvalidData where two could
    be one split, or none is for training."""
    given, found = list(names), {}
    for split, stems in _STEMS.items():
        there = [name for name in given if str(name).lower() in stems]
        if len(there) > 1:
            raise InvalidData(
                f"{there[0]!r} and {there[1]!r} could both be the {split} split", hint="Leave one out."
            )
        if there:
            found[split] = there[0]
    if "train" not in found:
        raise InvalidData(f"the data has no split 'train', only {', '.join(map(repr, given)) or 'nothing'}")
    return found


def find_splits(data: Path) -> dict[str, Path]:
    """Which file is which split: {"train": ..., "validation": ..., "test": ...}.

    A file is its own training split, and so are shards by their pattern (shards), a folder with a METADATA that lists its
    files, or one of folders of pictures; any other folder holds train.*, maybe validation.* (valid, val, dev) and test.*
    (eval), or shards or folders of these names, in letters of any case. What the datasets library saved to a folder has its
    splits, or is one. Raises InvalidData: nothing there, no training file, or two files for one split.
    """
    if (
        data.is_file()
        or is_pattern(data)
        or any((data / name).is_file() for name in METADATA)
        or is_saved(data)
    ):
        return {"train": data}
    if (saved := saved_splits(data)) is not None:
        return {split: data / name for split, name in name_splits(saved).items()}
    if not data.is_dir():
        raise InvalidData(f"{data}: no such file or folder")
    found: dict[str, Path] = {}
    shards = patterns(listed(data))
    for split, stems in _STEMS.items():
        files = sorted(
            path for path in listed(data) if path.stem.lower() in stems and path.suffix.lower() in _SUFFIXES
        )
        files += [pattern for pattern, stem in shards.items() if stem.lower() in stems]
        files = files or sorted(path for path in listed(data) if path.is_dir() and _is_split(path, stems))
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
        names = ", ".join([path.name for path in listed(data)[:10]]) or "nothing"
        raise InvalidData(
            f"{data}: no training file; the folder holds {names}",
            hint=f"Name it train with one of {' '.join(_SUFFIXES)}.",
        )
    return found


def _is_split(folder: Path, stems: tuple[str, ...]) -> bool:
    """Whether a folder is one of these splits by its name; pictures of trains may lie in a folder Train."""
    name = folder.name
    return name in stems or (name.lower() in stems and not has_pictures(folder.parent))


def split_off(
    dataset: Dataset,
    labels_of: Callable[[Example], frozenset[str]],
    share: float = 0.1,
    *,
    groups: NDArray[np.uint64] | None = None,
) -> tuple[Dataset, Dataset]:
    """(the rest, about `share` of the rows, MOST_SET_ASIDE at most); depends on neither a seed nor the order of rows.

    Rows are taken by the sha256 of their input, or by `groups` (group_keys), so equal ones fall on one side; a row whose
    label would then be missing from the rest stays. Where groups are so large that not half of that share comes together,
    the smallest of the large ones is taken too, up to half the rows. The source of both says so. Raises InvalidData where
    nothing can be taken.
    """
    keys = dataset.keys.inputs if groups is None else groups
    one: dict[frozenset[str], frozenset[str]] = {}  # of each set of labels, for there are fewer than rows
    held = [one.setdefault(labels, labels) for labels in map(labels_of, dataset)]
    left = Counter(label for labels in held for label in labels)
    wanted = min(max(1, round(share * len(dataset))), MOST_SET_ASIDE)

    def losing(places: NDArray[np.int64]) -> Counter[str] | None:
        """How many of each label go with these rows; None where one would be missing."""
        lost = Counter(label for at in places for label in held[at])
        return lost if all(left[label] > count for label, count in lost.items()) else None

    taken: list[NDArray[np.int64]] = []
    count = 0
    for places in _groups(keys):
        if count + len(places) > wanted:
            if count == wanted:
                break
            continue
        if (lost := losing(places)) is not None:
            taken.append(places)
            count += len(places)
            left -= lost
    if 2 * count < wanted and groups is not None:
        least, most = (
            wanted - count,
            len(dataset) // 2 - count,
        )  # what was passed over has more than `least` rows
        some = (places for places in sorted(_groups(keys), key=len) if least < len(places) <= most)
        taken += [places for places in some if losing(places) is not None][:1]
    if not taken:
        together = "" if groups is None else f" in {len(np.unique(groups))} groups that stay together"
        raise InvalidData(
            f"{dataset.source}: {len(dataset)} rows{together} are too few to set some aside for validation",
            hint="Give a validation split or more rows, or train without (validation=False, --no-validation).",
        )
    aside = np.sort(np.concatenate(taken))
    rest = np.setdiff1d(np.arange(len(dataset)), aside, assume_unique=True)
    return (
        replace(dataset.select(rest), source=f"{dataset.source} (without rows set aside)"),
        replace(dataset.select(aside), source=f"{dataset.source} (rows set aside)"),
    )


def _groups(inputs: NDArray[np.uint64]) -> Iterator[NDArray[np.int64]]:
    """The places of each input, in the order of inputs."""
    order = np.argsort(inputs, kind="stable")
    ends = np.flatnonzero(np.diff(inputs[order])) + 1
    start = 0
    for end in (*ends.tolist(), len(order)):
        yield order[start:end]
        start = end


def group_keys(dataset: Dataset, field: str) -> NDArray[np.uint64]:
    """uint64 [n], equal where examples have the same in `field`: the first eight bytes of Example.group_digest."""
    digests = b"".join(bytes.fromhex(example.group_digest(field))[:8] for example in dataset)
    return np.frombuffer(digests, ">u8").astype(np.uint64)


def leaked(train: Dataset, other: Dataset) -> int:
    """How many rows of `other` have an input that also stands in `train`."""
    return int(np.isin(other.keys.inputs, train.keys.inputs).sum())


def repeated(dataset: Dataset) -> tuple[int, int]:
    """How many rows have the input of an earlier row, and how many of them are labelled otherwise than that
    input was before.
    """
    keys = dataset.keys
    order = np.argsort(keys.inputs, kind="stable")
    same = np.diff(keys.inputs[order]) == 0
    contradictions = 0
    # Only of inputs that stand twice are the rows looked at.
    starts = np.flatnonzero(same & np.concatenate(([True], ~same[:-1]))) if same.any() else ()
    for start in starts:
        seen = {keys.row(order[start])}
        at = start
        while at < len(same) and same[at]:
            row = keys.row(order[at + 1])
            contradictions += row not in seen
            seen.add(row)
            at += 1
    return int(same.sum()), contradictions
