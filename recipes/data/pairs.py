"""Records of texts that belong together, such as a source and its target. Does not know what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from adapthub.adapters.errors import InvalidData, InvalidSettings
from adapthub.recipes.data.dataset import Dataset, Example
from adapthub.recipes.data.groups import grouped
from adapthub.recipes.data.records import Record, Records, columns_of, repeated_ids
from adapthub.recipes.data.tables import read_records

_TRANSLATION = ("translation",)  # of the Hub's parallel texts: {"translation": {"en": "...", "de": "..."}}


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
    is empty or none, InvalidSettings for one column as two fields. The languages in a column `translation` are columns."""
    records = _of_languages(read_records(source, encoding=encoding, delimiter=delimiter))
    columns = {field: records.column(field, given, usual) for field, (given, usual) in wanted.items()}
    if len(set(columns.values())) < len(columns):
        said = " and ".join(f"{field}_column" for field in columns)
        raise InvalidSettings(f"{said} are both {next(iter(columns.values()))!r}", hint="Name two columns.")
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


def _of_languages(records: Records) -> Records:
    """With the texts of each language, where a column has them by its name, as a column of its own."""
    column = records.find(_TRANSLATION)
    if column is None or not any(isinstance(row.values.get(column), Mapping) for row in records.rows):
        return records
    rows = [
        replace(
            row,
            values={**said, **row.values}
            if isinstance(said := row.values.get(column), Mapping)
            else row.values,
        )
        for row in records.rows
    ]
    columns = [name for name in columns_of(row.values for row in rows) if name != column]
    return replace(records, rows=rows, columns=tuple(columns))


def text_of(records: Records, row: Record, column: str, field: str) -> str:
    """The text in one cell. Raises InvalidData where there is none."""
    text = row.values.get(column)
    if not isinstance(text, str) or not text.strip():
        is_empty = text is None or isinstance(text, str)
        what = "empty" if is_empty else f"{type(text).__name__}, not text"
        raise InvalidData(
            f"{records.where(row)}: the {field} in column {column!r} is {what}",
            hint="Remove the row." if is_empty else "Give one text a row.",
        )
    return text
