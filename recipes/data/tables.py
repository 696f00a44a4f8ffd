"""Files of records: CSV and TSV, JSONL, Parquet. Line numbers are those an editor shows.

Does not choose columns and does not interpret values.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adapthub.adapters.errors import InvalidData, InvalidSettings
from adapthub.recipes.data.records import Record, Records, columns_of, is_datasets, of_datasets, of_mappings
from adapthub.recipes.data.text import read_text

_DELIMITERS = (",", "\t", ";", "|")
_CSV_CELL_LIMIT = 2**31 - 1
_NO_DELIMITERS = '\n\r"'


def read_records(source: Any, *, encoding: str = "utf-8", delimiter: str | None = None) -> Records:
    """The records of a file by its suffix, of a `datasets.Dataset`, or of a sequence of mappings.

    Raises InvalidData: an unknown suffix, no such file, empty, another encoding, a line that does not parse.
    """
    if is_datasets(source):
        return of_datasets(source)
    if not isinstance(source, (str, Path)):
        return of_mappings(source)
    path = Path(source)
    match path.suffix.lower():
        case ".csv" | ".tsv":
            return read_csv(path, encoding, delimiter)
        case ".jsonl" | ".ndjson" | ".json":
            return read_jsonl(path, encoding)
        case ".parquet":
            return read_parquet(path)
        case suffix:
            raise InvalidData(
                f"{path}: cannot tell the format from {suffix or 'a name without suffix'}",
                hint="Records are read from .csv, .tsv, .jsonl and .parquet files.",
            )


def read_csv(path: Path, encoding: str = "utf-8", delimiter: str | None = None) -> Records:
    """A CSV file with a header; its delimiter is the most frequent of comma, tab, semicolon, bar in it."""
    if delimiter is not None and (
        not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in _NO_DELIMITERS
    ):
        raise InvalidSettings(f"delimiter is one character such as ; or a tab, not {delimiter!r}")
    text = read_text(path, encoding)
    header = text.lstrip("\r\n").split("\n", 1)[0]
    limit = csv.field_size_limit(_CSV_CELL_LIMIT)
    try:
        reader = csv.reader(
            io.StringIO(text, newline=""),
            delimiter=delimiter or max(_DELIMITERS, key=header.count),
            strict=True,
        )
        numbered = list(_numbered(reader, path))
    finally:
        csv.field_size_limit(limit)
    (first_line, names), *rows = numbered
    columns = tuple(name.strip() for name in names)
    if len(set(columns)) < len(columns):
        raise InvalidData(f"{path}:{first_line}: a column name stands twice: {', '.join(map(repr, columns))}")
    if not rows:
        raise InvalidData(f"{path}: a header and no rows", hint="Give at least one labelled example.")
    for line, cells in rows:
        if len(cells) != len(columns):
            raise InvalidData(
                f"{path}:{line}: {len(cells)} cells where the header has {len(columns)}",
                hint='Put text that contains the delimiter in double quotes; double the quotes inside ("").',
            )
    return Records(
        columns, [Record(dict(zip(columns, cells, strict=True)), line) for line, cells in rows], str(path)
    )


def read_jsonl(path: Path, encoding: str = "utf-8") -> Records:
    """One JSON object a line; blank lines are skipped."""
    rows = []
    for number, line in enumerate(read_text(path, encoding).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InvalidData(
                f"{path}:{number}: not JSON: {getattr(error, 'msg', 'nested too deeply')}",
                hint=f"Write one JSON object a line (jq -c '.[]' {path.name} makes lines of an array).",
            ) from error
        if not isinstance(values, dict):
            raise InvalidData(
                f"{path}:{number}: a JSON {type(values).__name__}, not an object",
                hint=f"Write one JSON object a line (jq -c '.[]' {path.name} makes lines of an array).",
            )
        rows.append(Record(values, number))
    return Records(columns_of(row.values for row in rows), rows, str(path))


def read_parquet(path: Path) -> Records:
    """A Parquet file; rows count from 1."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except FileNotFoundError:
        raise InvalidData(f"{path}: no such file") from None
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise InvalidData(f"{path}: not a readable Parquet file: {str(error).splitlines()[0]}") from error
    if table.num_rows == 0:
        raise InvalidData(f"{path}: the file has no rows", hint="Give at least one labelled example.")
    rows = [Record(values, number) for number, values in enumerate(table.to_pylist(), start=1)]
    return Records(tuple(table.column_names), rows, str(path), "row")


def _numbered(reader: Any, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows with the line they begin on (a quoted cell may span lines); blank lines are skipped."""
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InvalidData(
                f"{path}:{line}: not CSV: {error}",
                hint="A double quote is open or stands inside a cell: double it.",
            ) from error
        if cells is None:
            return
        if cells:
            yield line, cells
