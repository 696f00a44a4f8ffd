"""Texts and their labels out of records: one label a text, or any number, which come as a list, as a text with a separator,
or as a column of 0 and 1 for each label.

A label is a name, a whole number or a boolean, and is kept as stripped text. Does not know what labels a run has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from adapthub.adapters.errors import InvalidData, InvalidSettings
from adapthub.recipes.data.classes import label_text
from adapthub.recipes.data.dataset import Dataset, Example
from adapthub.recipes.data.odd_labels import OddLabels
from adapthub.recipes.data.records import Record, Records, repeated_ids

TEXT_COLUMNS = ("text", "sentence", "review", "content", "document", "comment")
LABEL_COLUMNS = ("label", "sentiment", "class", "category", "target", "polarity")
LABELS_COLUMNS = (*LABEL_COLUMNS, "labels", "classes", "categories", "topics", "tags")

_FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
_LIST = re.compile(  # as JSON, Python and NumPy write them
    r"""\s*\[\s*(["'].*["']|[\d\s,-]*\d)?,?\s*\]\s*""", re.DOTALL
)


def read_single(records: Records, text_column: str | None, label_column: str | None) -> Dataset:
    """Examples with fields `text` and `label`, both str. Raises InvalidData with file and line."""
    label = records.column("label", label_column, LABEL_COLUMNS)
    rows = [(row, {"label": _label(records, row, row.values.get(label), label)}) for row in records.rows]
    return _dataset(records, text_column, label, rows)


def read_several(
    records: Records,
    text_column: str | None,
    label_column: str | None,
    separator: str | None,
    columns: str | Sequence[str] | None,
) -> Dataset:
    """Examples with fields `text` and `labels`, a sorted list of str, or as `read_single` where no row has a list, be it as
    JSON in a table's cell, and neither `separator` nor `columns` is given.

    Raises InvalidData with file and line, InvalidSettings for options that exclude each other.
    """
    if columns is not None:
        if separator is not None or label_column is not None:
            raise InvalidSettings("label_columns goes with neither label_column nor label_separator")
        return _from_columns(records, text_column, [columns] if isinstance(columns, str) else columns)
    label = records.column("label", label_column, LABELS_COLUMNS)
    if separator is not None:
        rows = [(row, _cut(records, row, label, separator)) for row in records.rows]
        return _dataset(records, text_column, label, rows)
    several = next((row for row in records.rows if isinstance(_listed(row.values.get(label)), list)), None)
    if several is None:
        return read_single(records, text_column, label)
    rows = []
    for row in records.rows:
        values = _listed(row.values.get(label))
        if not isinstance(values, list):
            if isinstance(values, str) and _LIST.fullmatch(values):
                _label(records, row, values, label)  # which says that it is one, and no JSON
            raise InvalidData(
                f"{records.where(row)}: the labels in column {label!r} are {_shown(values)}, and a list in"
                f" {records.where(several)}",
                hint="Give every row a list; one without labels is an empty list.",
            )
        rows.append((row, {"labels": _names(records, row, values, label)}))
    return _dataset(records, text_column, label, rows)


def _listed(cell: Any) -> Any:
    """The list that a cell holds as JSON, which is how a table's does; anything else as it is."""
    if isinstance(cell, str) and _LIST.fullmatch(cell):
        with suppress(ValueError, RecursionError):
            return json.loads(cell)
    return cell


def _cut(records: Records, row: Record, column: str, separator: str) -> dict[str, Any]:
    cell = row.values.get(column)
    if not isinstance(separator, str) or not separator:
        raise InvalidSettings(f"label_separator is a text such as ; or |, not {separator!r}")
    if isinstance(cell, list) or (isinstance(cell, str) and _LIST.fullmatch(cell)):
        raise InvalidData(
            f"{records.where(row)}: the labels in column {column!r} are a list already: {_shown(cell)}",
            hint="Leave label_separator out.",
        )
    if not isinstance(cell, (str, int)):
        raise InvalidData(
            f"{records.where(row)}: the labels in column {column!r} are {_shown(cell)}, not text",
            hint="Leave the cell empty where a text has no label.",
        )
    parts = [part for part in str(cell).split(separator) if part.strip()]
    return {"labels": _names(records, row, parts, column)}


def _from_columns(records: Records, text_column: str | None, columns: Sequence[str]) -> Dataset:
    columns = [records.column("label", str(name), ()) for name in columns]
    if len(set(columns)) < 2:
        raise InvalidSettings(
            f"label_columns names {len(set(columns))} columns, and a label needs another beside it",
            hint="One column of 0 and 1 is a choice of two: set label_column.",
        )
    rows = [
        (row, {"labels": sorted(name for name in columns if _flag(records, row, name))})
        for row in records.rows
    ]
    return _dataset(records, text_column, ", ".join(columns), rows, columns)


def _flag(records: Records, row: Record, column: str) -> bool:
    value = row.values.get(column)
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    flag = _FLAGS.get(str(whole).strip().lower())
    if flag is None:
        raise InvalidData(
            f"{records.where(row)}: column {column!r} is {_shown(value)}, neither 0 nor 1",
            hint="label_columns are columns of 0 and 1.",
        )
    return flag


def _names(records: Records, row: Record, values: Iterable[Any], column: str) -> list[str]:
    return sorted({_label(records, row, value, column) for value in values})


def _label(records: Records, row: Record, label: Any, column: str) -> str:
    text = label_text(label)
    if text is None:
        raise InvalidData(
            f"{records.where(row)}: the label in column {column!r} is {_shown(label)}",
            hint="Give every row one label, a name or a whole number.",
        )
    if _LIST.fullmatch(text):
        raise InvalidData(
            f"{records.where(row)}: the label in column {column!r} is a list: {_shown(label)}",
            hint="Lists of labels are for classify, in tables as JSON (json.dumps in Python); others have one label a row.",
        )
    return text


def text_of(records: Records, row: Record, column: str) -> str:
    """The text of a row. Raises InvalidData for one that is empty or none."""
    text = row.values.get(column)
    if not isinstance(text, str) or not text.strip():
        what = "empty" if text is None or isinstance(text, str) else f"{type(text).__name__}, not text"
        raise InvalidData(
            f"{records.where(row)}: the text in column {column!r} is {what}", hint="Remove the row."
        )
    return text


def _dataset(
    records: Records,
    text_column: str | None,
    label: str,
    rows: Iterable[tuple[Record, dict[str, Any]]],
    columns: Sequence[str] = (),
) -> Dataset:
    """`columns`: those that are a label each."""
    column = records.column("text", text_column, TEXT_COLUMNS)
    examples = tuple(
        Example({"text": text_of(records, row, column), **fields}, records.path, row.line, records.unit)
        for row, fields in rows
    )
    notes: list[str] = []
    if records.whole:
        odd = OddLabels(columns)
        odd.add(examples)
        notes += odd.notes()
    return Dataset(
        examples, records.path, {"text": column, "label": label}, notes=(*notes, *repeated_ids(records))
    )


def _shown(value: Any) -> str:
    return "empty" if value is None or (isinstance(value, str) and not value.strip()) else repr(value)
