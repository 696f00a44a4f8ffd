"""What several converters do with unpacked files: find one, keep licences, make splits, write rows.

Does not know any data set.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from adapthub.adapters.errors import AdmissionError

Row = TypeVar("Row")

SPLITS = ("train", "validation", "test")


def one(folder: Path, pattern: str) -> Path:
    """The only file under `folder` that matches. Raises AdmissionError for none or several."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise AdmissionError(f"{folder.name}: {len(found)} files match {pattern}, expected one")
    return found[0]


def keep_licences(package: Path, target: Path) -> None:
    """Move the package's licence text beside the data, as LICENSE-<package>."""
    for path in sorted(package.rglob("LICENSE*")):
        path.rename(target / f"LICENSE-{package.name}")


def identity(text: str) -> str:
    """What two rows share when they are the same text: case and white space aside."""
    return " ".join(text.casefold().split())


def split_of(text: str) -> str:
    """The split a text belongs to, about 80 / 10 / 10, decided by the sha256 of its identity alone.

    So splits are the same on every machine, whatever the order of rows, and equal texts never lie in two of
    them.
    """
    place = int.from_bytes(hashlib.sha256(identity(text).encode()).digest()[:8], "big") % 10
    return {0: "test", 1: "validation"}.get(place, "train")


def split_by(rows: Iterable[Row], text: Callable[[Row], str]) -> dict[str, list[Row]]:
    """Rows by split, in their order; of rows whose `text` has one identity only the first is kept."""
    seen: set[str] = set()
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for row in rows:
        key = identity(text(row))
        if key and key not in seen:
            seen.add(key)
            splits[split_of(key)].append(row)
    return splits


def write_csv(path: Path, rows: Iterable[Sequence[str]], columns: Sequence[str] = ("text", "label")) -> None:
    """UTF-8, one header row, `\\n` line ends: the same bytes for the same rows."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def write_classes(target: Path, rows: Iterable[tuple[str, str]]) -> None:
    """(text, label) rows without repeated texts, as train/validation/test.csv."""
    for split, kept in split_by(rows, lambda row: row[0]).items():
        write_csv(target / f"{split}.csv", kept)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """UTF-8, one object a line."""
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_lines(path: Path, blocks: Iterable[str]) -> None:
    """UTF-8 blocks of lines, an empty line after each."""
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for block in blocks:
            stream.write(block + "\n")
