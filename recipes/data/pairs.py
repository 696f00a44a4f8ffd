"""Records of texts that belong together, such as a source and its target. Does not know what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapthub.adapters.errors import InvalidData
from adapthub.recipes.data.dataset import Dataset, Example
from adapthub.recipes.data.groups import grouped
from adapthub.recipes.data.records import Record, Records, repeated_ids
from adapthub.recipes.data.tables import read_records


def read_texts(
    source: str | Path | Any,
    wanted: Mapping[str, tuple[str | None, Sequence[str]]],
    *,
    group: str | None = None,
    encoding: str = "utf-8",
    delimiter: str | None = None,
    settings: Mapping[str, Any],
) -> Dataset:
    """Examples whose fields are texts. `wanted`: for each field the column that the caller named, or None, and its usual
    names; `group` as in `grouped`, `settings` as in Dataset. Raises InvalidData for a column that is missing and a text that
    is empty or none."""
    records = read_records(source, encoding=encoding, delimiter=delimiter)
    columns = {field: records.column(field, given, usual) for field, (given, usual) in wanted.items()}
    examples = tuple(
        Example(
            {field: text_of(records, row, column, field) for field, column in columns.items()},
            records.path,
            row.line,
            records.unit,
        )
        for row in records.rows
    )
    read = Dataset(examples, records.path, columns, settings, tuple(repeated_ids(records)))
    return grouped(read, records, group)


def text_of(records: Records, row: Record, column: str, field: str) -> str:
    """The text in one cell. Raises InvalidData where there is none."""
    text = row.values.get(column)
    if not isinstance(text, str) or not text.strip():
        what = "empty" if text is None or isinstance(text, str) else f"{type(text).__name__}, not text"
        raise InvalidData(
            f"{records.where(row)}: the {field} in column {column!r} is {what}", hint="Remove the row."
        )
    return text
