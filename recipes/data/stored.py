"""Examples in files, read when they are asked for: more of them than memory holds, found again without reading their source.

An Arrow file, as the datasets library keeps its own, of each example's fields as JSON and its line, beside two of its keys;
all are mapped, so that what is not looked at takes no memory. Does not know recipes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa

from adapthub.recipes.data.dataset import Example, Keys

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SCHEMA = pa.schema([("fields", pa.large_binary()), ("line", pa.int64())])
_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_AT_ONCE = 4096
_EXAMPLES, _ROWS, _INPUTS = "examples.arrow", "rows.sha256", "inputs.u64"


class ExampleWriter:
    """Writes examples of one source into an empty folder, some at a time."""

    def __init__(self, folder: Path) -> None:
        self._examples = pa.OSFile(str(folder / _EXAMPLES), "wb")
        self._rows = (folder / _ROWS).open("wb")
        self._inputs = (folder / _INPUTS).open("wb")
        self._writer: Any = None

    def add(self, examples: Sequence[Example]) -> None:
        """Append at least one. Unit and spread of all are those of the first. Raises as `Keys.of`."""
        keys = Keys.of(examples)
        if self._writer is None:
            origin = {"unit": examples[0].unit, "spread": examples[0].spread}
            schema = _SCHEMA.with_metadata({"origin": json.dumps(origin)})
            self._writer = pa.ipc.new_file(self._examples, schema)
        columns = [
            pa.array([_packed(example) for example in examples], pa.large_binary()),
            pa.array([example.line for example in examples], pa.int64()),
        ]
        self._writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))
        self._rows.write(keys.every.tobytes())
        self._inputs.write(keys.inputs.tobytes())

    def close(self) -> None:
        """After it the folder can be read."""
        if self._writer is not None:
            self._writer.close()
        for stream in (self._examples, self._rows, self._inputs):
            stream.close()


class Files:
    """What ExampleWriter wrote to `folder`, opened: it can be read however soon the folder goes. Raises OSError and
    ValueError for what was not written to its end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.table: Any = pa.ipc.open_file(pa.memory_map(str(folder / _EXAMPLES))).read_all()
        self.keys = Keys(
            np.memmap(folder / _ROWS, np.uint8, "r").reshape(-1, 32),
            np.memmap(folder / _INPUTS, np.uint64, "r"),
        )
        if not len(self.table) == len(self.keys.every) == len(self.keys.inputs):
            raise ValueError(f"{folder}: {len(self.table)} examples and {len(self.keys.every)} keys")
        self.origin: dict[str, Any] = json.loads(self.table.schema.metadata[b"origin"])
        # The first place of each batch, and the end.
        self.starts = np.cumsum([0, *(len(chunk) for chunk in self.table.column("line").chunks)])


@dataclass(frozen=True)
class StoredExamples(Sequence[Example]):
    """The examples in `files`, or those at `places`; `path` is what they say they come from.

    Made anew each time that one is asked for, unless `held` has all of them. A sequence of KeyedExamples.
    """

    files: Files
    path: str
    places: NDArray[np.int64] | None = None
    held: Sequence[Example] | None = None

    @cached_property
    def keys(self) -> Keys:
        """See KeyedExamples."""
        return self.files.keys if self.places is None else self.files.keys.select(self.places)

    def select(self, places: NDArray[np.int64]) -> StoredExamples:
        """See KeyedExamples."""
        inner = places if self.places is None else self.places[places]
        return StoredExamples(self.files, self.path, inner, self.held)

    def __len__(self) -> int:
        return len(self.files.table) if self.places is None else len(self.places)

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> StoredExamples: ...
    def __getitem__(self, at: int | slice) -> Example | StoredExamples:
        if isinstance(at, slice):
            return self.select(np.arange(*at.indices(len(self)), dtype=np.int64))
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        at %= len(self)
        place = at if self.places is None else self.places[at]
        return next(self._some(np.array([place], np.int64)))

    def __iter__(self) -> Iterator[Example]:
        for start in range(0, len(self), _AT_ONCE):
            stop = min(start + _AT_ONCE, len(self))
            yield from self._some(np.arange(start, stop) if self.places is None else self.places[start:stop])

    def _some(self, places: NDArray[np.int64]) -> Iterator[Example]:
        if self.held is not None:
            yield from map(self.held.__getitem__, places.tolist())
            return
        table, starts = self.files.table, self.files.starts
        batches = np.searchsorted(starts, places, side="right") - 1
        borders = [0, *(np.flatnonzero(np.diff(batches)) + 1), len(places)]
        for first, last in pairwise(borders):
            batch = int(batches[first])
            inner = pa.array(places[first:last] - starts[batch])
            columns = (table.column(name).chunk(batch).take(inner).to_pylist() for name in _SCHEMA.names)
            for fields, line in zip(*columns, strict=True):
                values = json.loads(fields.decode("utf-8", "surrogatepass"))
                yield Example(values, self.path, line, **self.files.origin)


def _packed(example: Example) -> bytes:
    return _COMPACT.encode(dict(example.fields)).encode("utf-8", "surrogatepass")
