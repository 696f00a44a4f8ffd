"""Files of records: CSV and TSV, JSON, Parquet; whole, or some rows at a time. Line numbers are those an editor shows.

Does not choose columns and does not interpret values.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from adapthub.adapters.errors import InvalidData, InvalidSettings
from adapthub.recipes.data.json_rows import json_rows
from adapthub.recipes.data.records import (
    Record,
    Records,
    class_namer,
    columns_of,
    is_datasets,
    of_datasets,
    of_mappings,
)
from adapthub.recipes.data.shards import shards_of
from adapthub.recipes.data.text import read_lines, read_text

_DELIMITERS = (",", "\t", ";", "|")
_CSV_CELL_LIMIT = 2**31 - 1
_QUOTED = re.compile(r'"[^"]*"')
_SAYS_DELIMITER = re.compile(r'sep=([^"\r\n])[\r\n]*', re.IGNORECASE)  # of Excel, above the header
_NO_DELIMITERS = '\n\r"'
_BLOCK = 16 << 20  # characters
_OTHER_VALUE = 512  # what is no text is taken for so many
_PARQUET_ROWS = 8192
BY_BLOCKS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
"""Suffixes of what can be read some rows at a time."""


def read_records(source: Any, *, encoding: str = "utf-8", delimiter: str | None = None) -> Records:
    """The records of a file by its suffix, of a `datasets.Dataset`, or of a sequence of mappings; Records are what they are.

    Raises InvalidData: an unknown suffix, no such file, empty, another encoding, a line that does not parse.
    """
    if isinstance(source, Records):
        return source
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
            if not path.exists():
                raise InvalidData(f"{path}: no such file or folder")
            raise InvalidData(
                f"{path}: cannot tell the format from {suffix or 'a name without suffix'}",
                hint="Records are read from .csv, .tsv, .jsonl and .parquet files.",
            )


def record_blocks(path: Path, *, encoding: str = "utf-8", delimiter: str | None = None) -> Iterator[Records]:
    """The records of a file in parts of some 16 MB, in their order, each with its own lines. A part knows the columns seen
    so far. Raises as read_records, where the reading comes to it; `path` has one of the suffixes BY_BLOCKS."""
    match path.suffix.lower():
        case ".csv" | ".tsv":
            _check_delimiter(delimiter)
            rows = _csv_rows(read_lines(path, encoding, ends="any"), path, delimiter)
            yield from _blocks(rows, str(path), "line")
        case ".parquet":
            yield from _parquet_blocks(path)
        case _:
            rows, unit = json_rows(lambda ends: read_lines(path, encoding, ends=ends), path)
            yield from _blocks(rows, str(path), unit)


def read_csv(path: Path, encoding: str = "utf-8", delimiter: str | None = None) -> Records:
    """A CSV file with a header; its delimiter is the most frequent of comma, tab, semicolon, bar in it. Rows whose cells are
    all empty are skipped."""
    _check_delimiter(delimiter)
    rows = list(_csv_rows(io.StringIO(read_text(path, encoding), newline=""), path, delimiter))
    return Records(tuple(rows[0].values), rows, str(path))


def read_jsonl(path: Path, encoding: str = "utf-8") -> Records:
    """One JSON object a line, blank lines skipped; of a .json file perhaps one array of them, whose rows count from 1."""
    text = read_text(path, encoding)
    found, unit = json_rows(lambda _: io.StringIO(text, newline="\n"), path)
    rows = list(found)
    return Records(columns_of(row.values for row in rows), rows, str(path), unit)


def read_parquet(path: Path) -> Records:
    """A Parquet file, or shards of one split; rows count from 1."""
    blocks = list(_parquet_blocks(path))
    rows = [row for block in blocks for row in block.rows]
    return Records(blocks[0].columns, rows, str(path), "row", arrow=True)


def _check_delimiter(delimiter: str | None) -> None:
    if delimiter is not None and (
        not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in _NO_DELIMITERS
    ):
        raise InvalidSettings(f"delimiter is one character such as ; or a tab, not {delimiter!r}")


def _csv_rows(lines: Iterable[str], path: Path, delimiter: str | None) -> Iterator[Record]:
    """At least one. The longest cell that the csv module allows is raised meanwhile."""
    lines = iter(lines)
    before: list[str] = []  # blank lines, and the header
    for line in lines:
        said = _SAYS_DELIMITER.fullmatch(line)
        before.append("\n" if said else line)
        delimiter = delimiter or (said[1] if said else None)
        if before[-1].strip(" \r\n"):
            break
    limit = csv.field_size_limit(_CSV_CELL_LIMIT)
    try:
        delimiter = delimiter or max(_DELIMITERS, key=_QUOTED.sub("", before[-1]).count)
        reader = csv.reader(chain(before, lines), delimiter=delimiter, strict=True)
        numbered = _numbered(reader, path)
        first_line, names = next(numbered, (0, []))
        if not names:
            raise InvalidData(f"{path}: no header", hint="The first line of a table names its columns.")
        columns = tuple(name.strip() for name in names)
        named = [name for name in columns if name]  # spreadsheets write empty columns, too
        if len(set(named)) < len(named):
            raise InvalidData(
                f"{path}:{first_line}: a column name stands twice: {', '.join(map(repr, columns))}",
                hint="Rename one of the two.",
            )
        there = False
        for line_number, cells in numbered:
            if len(cells) != len(columns):
                raise InvalidData(
                    f"{path}:{line_number}: {len(cells)} cells where the header has {len(columns)}",
                    hint='Put text that contains the delimiter in double quotes; double the quotes inside ("").',
                )
            if delimiter == "\t" and _are_rows(cells):
                raise InvalidData(
                    f"{path}:{line_number}: a double quote opens a cell here and closes one lines later, and each of"
                    " these lines is a row by itself",
                    hint='Put cells that begin with a quote in double quotes, those inside doubled (""), or write'
                    " JSONL.",
                )
            if not any(map(str.strip, cells)):
                continue  # as spreadsheets write below a table
            there = True
            yield Record(dict(zip(columns, cells, strict=True)), line_number)
        if not there:
            raise InvalidData(f"{path}: a header and no rows", hint="Give at least one labelled example.")
    finally:
        csv.field_size_limit(limit)


def _are_rows(cells: Sequence[str]) -> bool:
    """Whether a row with tabs is several of a file whose quotes mean nothing, as many benchmarks'. They would be lost."""
    lines = "\t".join(cells).split("\n")
    return len(lines) > 1 and all(line.count("\t") == len(cells) - 1 for line in lines)


def _parquet_blocks(path: Path) -> Iterator[Records]:
    """Of a file, or of shards, through all of which rows count."""
    first: tuple[str, ...] | None = None
    number = 0
    for file in shards_of(path):
        for columns, rows in _parquet_rows(file):
            first = first or columns
            if {*columns} != {*first}:
                raise InvalidData(
                    f"{file}: the columns are {', '.join(map(repr, columns))}, and not {', '.join(map(repr, first))} as in"
                    " the shards before",
                    hint="Give all shards the same columns.",
                )
            records = [Record(values, number + at) for at, values in enumerate(rows, start=1)]
            number += len(records)
            yield Records(columns, records, str(path), "row", arrow=True)
    if not number:
        raise InvalidData(f"{path}: the file has no rows", hint="Give at least one labelled example.")


def _parquet_rows(path: Path) -> Iterator[tuple[tuple[str, ...], list[dict[str, Any]]]]:
    """The columns of a file and some of its rows; those that `datasets` knows for classes hold their names."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = tuple(file.schema_arrow.names)
            if len(set(columns)) < len(columns):
                raise InvalidData(f"{path}: a column name stands twice: {', '.join(map(repr, columns))}")
            named = class_namer(_features(file.schema_arrow))
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                yield columns, list(map(named, batch.to_pylist()))
    except FileNotFoundError:
        raise InvalidData(f"{path}: no such file") from None
    except InvalidData:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:  # the last two: of values
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InvalidData(f"{path}: not a readable Parquet file: {reason}") from error


def _features(schema: Any) -> Mapping[str, Any]:
    """What the datasets library says of a file's columns; nothing where it did not write the file."""
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    import datasets

    features: Mapping[str, Any] = datasets.Features.from_arrow_schema(schema)
    return features


def _blocks(rows: Iterator[Record], path: str, unit: str) -> Iterator[Records]:
    columns: dict[str, None] = {}
    some: list[Record] = []
    size = 0
    for row in rows:
        columns |= dict.fromkeys(row.values)
        some.append(row)
        size += sum(len(value) if isinstance(value, str) else _OTHER_VALUE for value in row.values.values())
        if size >= _BLOCK:
            yield Records(tuple(columns), some, path, unit)
            some, size = [], 0
    if some:
        yield Records(tuple(columns), some, path, unit)


def _numbered(reader: Any, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows with the line they begin on (a quoted cell may span lines); lines that are empty or spaces alone are skipped."""
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
        if len(cells) > 1 or "".join(cells).strip(" \t"):
            yield line, cells
