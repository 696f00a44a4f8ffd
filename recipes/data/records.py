"""Records with named columns: rows that know their line, and the choice of columns by name.

Rows in memory and datasets.Dataset become records here, files in tables. Does not know which task reads them.
"""

from __future__ import annotations

import glob
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adapthub.adapters.errors import InvalidData
from adapthub.recipes.data.shards import is_pattern, shards_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

_AT_ONCE = 8192  # rows
_ROWS = (
    "Give a file, a datasets.Dataset, or a list of mappings; of a DataFrame it is frame.to_dict('records')."
)
_TABLES, _HEADER = (".csv", ".tsv"), " The first line of the file names its columns."
_ID_COLUMNS = ("id", "uid", "guid", "idx")


@dataclass(frozen=True, slots=True)
class Record:
    """One row: its values by column name, and the line (or row) of its file, counted from 1."""

    values: Mapping[str, Any]
    line: int


@dataclass(frozen=True)
class Records:
    """The rows of one source. `path` is its name in messages; `unit` is what Record.line counts there; `arrow`: they come
    from Arrow, which gives all objects of a column the same fields; `whole`: they are all that it has, of which readers say
    what is odd."""

    columns: tuple[str, ...]
    rows: Sequence[Record]
    path: str
    unit: str = "line"
    arrow: bool = False
    whole: bool = True

    def where(self, row: Record) -> str:
        return f"{self.path}:{row.line}" if self.unit == "line" else f"{self.path}:{self.unit} {row.line}"

    def column(self, role: str, given: str | None, usual: Sequence[str]) -> str:
        """The column that holds `role`: the one the caller gave, else the first usual name, case ignored.

        Raises InvalidData listing the columns that are there.
        """
        if given is not None:
            given = str(given)  # a column called 5 may be given as a number
            if given in self.columns:
                return given
            raise self._missing(f"no column {given!r}", role, [given])
        if (found := self.find(usual)) is not None:
            return found
        raise self._missing(f"no {role} column (looked for {', '.join(usual)})", role, usual)

    def find(self, usual: Sequence[str]) -> str | None:
        """The column that has the first of these names, case ignored; None where there is none."""
        by_lower = {name.strip().lower(): name for name in reversed(self.columns)}
        return next((by_lower[name] for name in usual if name in by_lower), None)

    def _missing(self, what: str, role: str, wanted: Sequence[str]) -> InvalidData:
        near = [match for name in wanted for match in get_close_matches(name, self.columns, n=1, cutoff=0.7)]
        guess = f"Did you mean {near[0]!r}? " if near else ""
        is_table = self.path.lower().endswith(_TABLES)
        return InvalidData(
            f"{self.path}: {what}; the columns are {', '.join(map(repr, self.columns))}",
            hint=f"{guess}Set {role}_column.{'' if near or not is_table else _HEADER}",
        )


def of_mappings(rows: Iterable[Mapping[str, Any]], name: str = "data") -> Records:
    """Rows that are in memory already. Raises InvalidData where there are none, and for what is no row."""
    records = [Record(_row(row, number, name), number) for number, row in enumerate(_iterated(rows, name), 1)]
    if not records:
        raise InvalidData(f"{name}: there are no rows", hint="Give at least one labelled example.")
    return Records(columns_of(record.values for record in records), records, name, "row")


def _iterated(rows: Any, name: str) -> Iterable[Any]:
    if isinstance(rows, Iterable):
        return rows
    raise InvalidData(f"{name}: {type(rows).__name__} holds no rows", hint=_ROWS)


def _row(row: Any, number: int, name: str) -> dict[str, Any]:
    if isinstance(row, Mapping):
        if unnamed := [column for column in row if not isinstance(column, str)]:
            raise InvalidData(
                f"{name}: row {number} has the column {unnamed[0]!r:.60}, whose name is no text",
                hint="Give columns names; of a DataFrame by frame.rename(columns=str).",
            )
        return {column: _plain(value) for column, value in row.items()}
    raise InvalidData(
        f"{name}: row {number} is {row!r:.60}, no mapping of columns to values",
        hint=_ROWS,  # a DataFrame gives its columns' names here
    )


def _plain(value: Any) -> Any:
    """Lists for NumPy's arrays, as pandas has them in cells, and None for no value, however deep. Floats, which are sound,
    stay an array."""
    if value is None or isinstance(value, str | bytes | int):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind != "f":
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return None if _is_missing(value) else value


def _is_missing(value: Any) -> bool:
    """Whether this is what pandas has where there is no value, of whatever kind the column is."""
    pandas = sys.modules.get("pandas")
    return (isinstance(value, float) and math.isnan(value)) or (
        pandas is not None and (value is pandas.NA or value is pandas.NaT)
    )


def of_datasets(dataset: Any) -> Records:
    """A `datasets.Dataset` or an IterableDataset; class labels become their names."""
    blocks = list(blocks_of_datasets(dataset))
    rows = [row for block in blocks for row in block.rows]
    return replace(blocks[0], columns=columns_of(row.values for row in rows), rows=rows)


def blocks_of_datasets(dataset: Any) -> Iterator[Records]:
    """The same of a `datasets.Dataset`, some rows at a time, in their order. Raises InvalidData where there are none."""
    dataset = settled(dataset)
    if not len(dataset):
        of_mappings((), _name_of(dataset))
    for start in range(0, len(dataset), _AT_ONCE):
        some = dataset.select(range(start, min(start + _AT_ONCE, len(dataset))))
        rows = [Record(values, number) for number, values in enumerate(named_rows(some), start + 1)]
        columns = columns_of(row.values for row in rows)
        yield Records(columns, rows, _name_of(dataset), "row", arrow=True)


def named_rows(dataset: Any) -> Iterator[dict[str, Any]]:
    """The rows of a `datasets.Dataset` or IterableDataset; class labels become their names."""
    yield from map(class_namer(dataset.features or {}), dataset)


def class_namer(features: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """What gives a row whose class labels are their names; `features` are the datasets library's."""
    found = {column: _class_names(feature) for column, feature in features.items()}
    names = {column: classes for column, classes in found.items() if classes is not None}

    def named(row: Mapping[str, Any]) -> dict[str, Any]:
        values = dict(row)
        for column, classes in names.items():
            value = values.get(column)
            if isinstance(value, list):
                values[column] = [class_name(classes, item) for item in value]
            elif value is not None:
                values[column] = class_name(classes, value)
        return values

    return named


def repeated_ids(records: Records) -> Iterator[str]:
    """A note where rows share a value of the column of ids, if there is one: rows that were taken twice, often. Of a part
    `Ids` knows."""
    column = records.find(_ID_COLUMNS) if records.whole else None
    first: dict[str, Record] = {}
    repeats: list[tuple[Record, Record]] = []
    for row in records.rows:
        value = None if column is None else row.values.get(column)
        if value not in (None, ""):
            before = first.setdefault(str(value), row)
            if before is not row:
                repeats.append((before, row))
    if repeats:
        before, row = repeats[0]
        yield (
            f"{len(repeats)} rows have the {column} of an earlier one: {row.values[str(column)]!r} stands at"
            f" {records.where(before)} and {records.where(row)}"
        )


@dataclass(frozen=True)
class RepeatedIds:
    """`count` rows of a source have an id, in the column `column`, of an earlier one, the first of them that at `again`, as
    that at `before`."""

    count: int
    column: str
    before: str
    again: str


class Ids:
    """The ids of records that are read in parts: 16 bytes for each, of which 8 are a hash (two of a billion unlike ids are
    taken for the same one time in forty)."""

    def __init__(self) -> None:
        self._hashes: list[NDArray[np.int64]] = []
        self._lines: list[NDArray[np.int64]] = []
        self._of: tuple[Records, str] | None = None

    def add(self, records: Records) -> None:
        """The ids of one part."""
        column = records.find(_ID_COLUMNS)
        if column is None:
            return
        values = ((row.values.get(column), row.line) for row in records.rows)
        ids = [(hash(str(value)), line) for value, line in values if value not in (None, "")]
        both = np.array(ids, np.int64).reshape(-1, 2)
        self._hashes.append(both[:, 0])
        self._lines.append(both[:, 1])
        self._of = self._of or (replace(records, rows=()), column)

    def repeated(self) -> RepeatedIds | None:
        """What there is; None for nothing."""
        if self._of is None:
            return None
        hashes, lines = np.concatenate(self._hashes), np.concatenate(self._lines)
        order = np.argsort(hashes, kind="stable")
        same = np.flatnonzero(np.diff(hashes[order]) == 0)
        if not len(same):
            return None
        again = int(order[same + 1].min())
        before = int(np.flatnonzero(hashes == hashes[again])[0])
        (source, column), places = self._of, (before, again)
        where = (source.where(Record({}, int(lines[at]))) for at in places)
        return RepeatedIds(len(same), column, *where)


def columns_of(rows: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Every column that occurs, in order of appearance."""
    return tuple(dict.fromkeys(column for row in rows for column in row))


def _name_of(dataset: Any) -> str:
    return str(getattr(dataset.info, "dataset_name", None) or "dataset")


def is_datasets(source: object) -> bool:
    """Whether `source` is a `datasets.Dataset` or IterableDataset (asked without importing the library)."""
    return hasattr(source, "features") and hasattr(source, "column_names") and hasattr(source, "info")


def settled(dataset: Any) -> Any:
    """A `datasets.IterableDataset` read to its end, pictures and sound as their bytes; a `datasets.Dataset` without a format
    such as NumPy's or torch's, whose values are no texts and whole numbers. Raises InvalidData for a stream without rows, or
    of rows that are no table."""
    import datasets
    import pyarrow as pa

    if not isinstance(dataset, datasets.IterableDataset):
        return _unformatted(dataset)
    dataset = encoded_media(dataset)
    rows = list(dataset)
    if not rows:
        raise InvalidData("the stream has no rows", hint="Give at least one labelled example.")
    if dataset.features is None:  # or the library leaves out columns that the first row lacks
        columns = dict.fromkeys(columns_of(rows))
        rows = [{**columns, **row} for row in rows]
    try:
        return datasets.Dataset.from_list(rows, features=dataset.features)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InvalidData(
            f"the stream's rows are not of one kind: {reason}", hint="Give the values of a column one type."
        ) from error


def _unformatted(dataset: Any) -> Any:
    """The same columns as plain values; what a transform of the user's own makes of rows stays."""
    shown = getattr(dataset, "format", {"type": None})
    if shown["type"] in (None, "custom"):
        return dataset
    more = shown["output_all_columns"]
    return dataset.with_format(None, columns=shown["columns"], output_all_columns=more)


def mapped_parquet(path: Path) -> Any:
    """A Parquet file, or shards, as a `datasets.Dataset`, by memory map: with pictures or sound it may be beyond memory.
    Raises InvalidData for what cannot be read."""
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        files = shards_of(path)
        if not sum(pq.read_metadata(file).num_rows for file in files):
            raise InvalidData(f"{path}: the file has no rows", hint="Give at least one labelled example.")
        return datasets.Dataset.from_parquet([glob.escape(str(file)) for file in files])
    except InvalidData:
        raise
    except (OSError, ValueError, pa.ArrowException, datasets.exceptions.DatasetGenerationError) as error:
        reason = next(iter(str(error.__cause__ or error).splitlines()), type(error).__name__)
        raise InvalidData(f"{path}: not a readable Parquet file: {reason}") from error


def is_parquet(path: Path) -> bool:
    """Whether this is a Parquet file that is there, or shards."""
    return path.suffix.lower() == ".parquet" and (path.is_file() or is_pattern(path))


def encoded_media(dataset: Any) -> Any:
    """A `datasets` table or stream whose pictures and sound stay bytes."""
    import datasets

    for column, feature in (dataset.features or {}).items():
        if isinstance(feature, (datasets.Image, datasets.Audio)):
            dataset = dataset.cast_column(column, type(feature)(decode=False))
    return dataset


def suffix_of(source: object) -> str:
    """The lower-case suffix of a path, "" for what is no path."""
    return Path(source).suffix.lower() if isinstance(source, (str, Path)) else ""


def _class_names(feature: Any) -> list[str] | None:
    names = getattr(getattr(feature, "feature", feature), "names", None)
    return list(names) if names is not None else None


def class_name(names: list[str], value: Any) -> Any:
    """The name of a class by its number; None where there is none, as of rows that are not labelled (-1)."""
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None
