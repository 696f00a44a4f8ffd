"""One class for an example: a cell as a label, and the labels of a training split in their order."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Any

from adapthub.adapters.errors import InvalidData

_MANY = 20


def label_text(value: Any) -> str | None:
    """A label as text: names, whole numbers and booleans; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # an integer column with gaps comes out of Parquet as floats
    text = str(value).strip() if isinstance(value, (str, Integral)) else ""  # NumPy's are such, too
    return text or None


def ordered_classes(labels: Iterable[str], source: str, column: str) -> tuple[str, ...]:
    """The classes of a training split, by value where all are whole numbers, else as text.

    Raises InvalidData for one class alone, and for a column of so many values that it names no classes.
    """
    found = list(labels)
    classes = set(found)
    if len(classes) < 2:
        raise InvalidData(
            f"{source}: every row has the label {next(iter(classes))!r} in {column}",
            hint="A classifier needs examples of at least two classes.",
        )
    if len(classes) > max(_MANY, len(found) // 2):
        raise InvalidData(
            f"{source}: {column} has {len(classes)} different values in {len(found)} rows",
            hint="They do not look like classes; set label_column.",
        )
    return in_order(classes)


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """By value where all are whole numbers, else as text; 1 and 01, which are two labels, in one order in every process."""
    by_text = sorted(labels)
    numeric = all(label.removeprefix("-").isdecimal() for label in by_text)
    return tuple(sorted(by_text, key=int)) if numeric else tuple(by_text)
