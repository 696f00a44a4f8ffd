"""What several converters do with unpacked files: find one, keep licences, write rows and splits.

Does not know any data set.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from adapthub.adapters.errors import AdmissionError

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


def split_rows(rows: Iterable[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
    """(text, label) rows by split, in their order; of rows with one identity only the first is kept."""
    seen: set[str] = set()
    splits: dict[str, list[tuple[str, str]]] = {split: [] for split in SPLITS}
    for text, label in rows:
        if identity(text) in seen:
            continue
        seen.add(identity(text))
        splits[split_of(text)].append((text, label))
    return splits


def write_csv(path: Path, rows: Iterable[Sequence[str]], columns: Sequence[str] = ("text", "label")) -> None:
    """UTF-8, one header row, `\\n` line ends: the same bytes for the same rows."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
