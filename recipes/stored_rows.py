"""A split as the model sees it, in files: rows of token ids that are made when they are asked for.

An Arrow file of the rows' columns, mapped; their lengths beside it, and a small file of what was counted. Does not encode
or decide what is kept (prepared).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa

from adapthub.recipes.batches import IGNORED
from adapthub.recipes.recipe import Encoded, Row, Rows, lengths_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROWS, _LENGTHS, _COUNTS = "rows.arrow", "lengths.i32", "counts.json"
_POSITIONS = "\0positions"  # no model has an input of that name
_COUNTED = ("supervised", "targets", "truncated")


class RowWriter:
    """Writes an Encoded into an empty folder, some of its rows at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows = pa.OSFile(str(folder / _ROWS), "wb")
        self._lengths = (folder / _LENGTHS).open("wb")
        self._writer: Any = None
        self._counts = dict.fromkeys(_COUNTED, 0)
        self._settings: dict[str, Any] = {}

    def add(self, encoded: Encoded) -> None:
        """Append at least one row. Raises ValueError for rows unlike those before."""
        rows = list(encoded.rows)
        columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in rows[0]}
        if encoded.positions:
            columns[_POSITIONS] = [*encoded.positions]
        arrays = {name: _array(values) for name, values in columns.items()}
        if self._writer is None:
            self._schema = pa.schema([(name, array.type) for name, array in arrays.items()])
            self._writer = pa.ipc.new_file(self._rows, self._schema)
        if any(len(row) != len(rows[0]) for row in rows) or [*arrays] != self._schema.names:
            raise ValueError("rows with other columns than those before")
        arrays = {name: array.cast(self._schema.field(name).type) for name, array in arrays.items()}
        self._writer.write_batch(pa.record_batch([*arrays.values()], schema=self._schema))
        self._lengths.write(lengths_of(encoded.rows).astype(np.int32).tobytes())
        for name in _COUNTED:
            self._counts[name] += getattr(encoded, name)
        self._settings = dict(encoded.settings)

    def close(self) -> None:
        """After it the folder can be read."""
        if self._writer is not None:
            self._writer.close()
        self._rows.close()
        self._lengths.close()
        (self._folder / _COUNTS).write_text(json.dumps({**self._counts, "settings": self._settings}))


def read_rows(folder: Path) -> Encoded:
    """What RowWriter wrote there, opened: it can be read however soon the folder goes. Raises OSError and ValueError for
    what was not written to its end."""
    counts = json.loads((folder / _COUNTS).read_text())
    rows = StoredRows(folder)
    if len(rows.lengths) != len(rows):
        raise ValueError(f"{folder}: {len(rows)} rows and {len(rows.lengths)} lengths")
    return Encoded(rows, positions=rows.positions, **counts)


@dataclass(frozen=True)
class StoredRows(Sequence[Row]):
    """The rows of a folder, equal to those that were written."""

    folder: Path

    @cached_property
    def lengths(self) -> NDArray[np.int32]:
        """See recipe.lengths_of."""
        return np.memmap(self.folder / _LENGTHS, np.int32, "r")

    @cached_property
    def untaught(self) -> list[int]:
        """The places of rows with labels of which none is asked for (see taught), without making the rows."""
        found: list[NDArray[np.int64]] = []
        if "labels" not in self._table.column_names:
            return []
        for start, labels in zip(self._starts, self._table.column("labels").chunks, strict=False):
            if not pa.types.is_list(labels.type) or not pa.types.is_integer(labels.type.value_type):
                return []
            asked = np.concatenate(([0], np.cumsum(labels.flatten().to_numpy() != IGNORED)))
            ends = labels.offsets.to_numpy() - labels.offsets[0].as_py()
            nothing = (np.diff(asked[ends]) == 0) & (np.diff(ends) > 0)
            found.append(start + np.flatnonzero(nothing))
        return np.concatenate(found).tolist() if found else []

    @property
    def positions(self) -> Sequence[Sequence[int]]:
        """See Encoded.positions."""
        return _Positions(self) if _POSITIONS in self._table.column_names else ()

    def __len__(self) -> int:
        return int(self._starts[-1])

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> Rows: ...
    def __getitem__(self, at: int | slice) -> Row | Rows:
        if isinstance(at, slice):
            return Rows(self, range(len(self))[at])
        names = [name for name in self._table.column_names if name != _POSITIONS]
        return {name: self.value(name, at) for name in names}

    def __iter__(self) -> Iterator[Row]:
        return map(self.__getitem__, range(len(self)))

    def value(self, column: str, at: int) -> Any:
        """One value of a row."""
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        at %= len(self)
        batch = int(np.searchsorted(self._starts, at, side="right")) - 1
        value = self._table.column(column).chunk(batch)[at - int(self._starts[batch])]
        if isinstance(value, pa.ListScalar) and pa.types.is_integer(value.type.value_type):
            return value.values.to_numpy().tolist()  # much faster than as_py
        return value.as_py()

    @cached_property
    def _table(self) -> Any:
        return pa.ipc.open_file(pa.memory_map(str(self.folder / _ROWS))).read_all()

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """The first row of each batch, and the end."""
        return np.cumsum([0, *(len(chunk) for chunk in self._table.column(0).chunks)])


@dataclass(frozen=True)
class _Positions(Sequence[Sequence[int]]):
    rows: StoredRows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, at: int) -> Sequence[int]: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Sequence[int]]: ...
    def __getitem__(self, at: int | slice) -> Sequence[Any]:
        if isinstance(at, slice):
            return [self[inner] for inner in range(len(self))[at]]
        found: Sequence[int] = self.rows.value(_POSITIONS, at)
        return found


def _array(values: list[Any]) -> Any:
    """Lists of whole numbers, which are most, by way of numpy; all else as Arrow sees it."""
    if not values or not isinstance(values[0], list):
        return pa.array(values)
    flat = [*chain.from_iterable(values)]
    if {*map(type, flat)} != {int}:
        return pa.array(values, pa.list_(pa.int32())) if not flat else pa.array(values)
    offsets = np.concatenate(([0], np.cumsum([len(value) for value in values])))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(np.asarray(flat, np.int32)))
