"""Labelled examples, each knowing the file and line it came from; in memory, or in a file (stored).

Does not read files (the siblings do) and knows no task: what an example's fields mean is the recipe's
business.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from adapthub.adapters.errors import InvalidData

if TYPE_CHECKING:
    from numpy.typing import NDArray

TARGETS = ("label", "labels", "target", "answers", "good")
"""The fields that models learn to find; every other is their input, but for GROUP."""
GROUP = "group"
"""The field that says which rows belong together, such as a patient's: no model sees it."""
_CANONICAL = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))
_AT_ONCE = 1 << 16


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled example: `{"tokens": [...], "labels": [...]}`, `{"text": ..., "label": ...}`.

    `source` is where it begins ("reviews.csv:17"); `path` and `line` are its two parts, and `unit` is what
    `line` counts ("line", or "row" in files that have no lines; "file" where `path` is the example). `spread`: its tokens
    stand on a line each.
    """

    fields: Mapping[str, Any]
    path: str
    line: int
    unit: str = "line"
    spread: bool = False

    @property
    def source(self) -> str:
        if self.unit == "file":
            return self.path
        return f"{self.path}:{self.line}" if self.unit == "line" else f"{self.path}:{self.unit} {self.line}"

    def at(self, index: int) -> str:
        """Where its token `index` (from 0) stands: "train.conll:18", or "train.jsonl:7: token 2"."""
        return f"{self.path}:{self.line + index}" if self.spread else f"{self.source}: token {index + 1}"

    @property
    def digest(self) -> str:
        """Hex sha256 of the fields but GROUP as canonical JSON: equal rows have equal digests wherever they stand."""
        return self._digest(name for name in self.fields if name != GROUP)

    @property
    def input_digest(self) -> str:
        """The same without what a model shall find (TARGETS) and GROUP: equal for what it cannot tell apart."""
        return self._digest(name for name in self.fields if name not in (*TARGETS, GROUP))

    def group_digest(self, field: str) -> str:
        """Equal for examples that have the same in `field`; without it as `input_digest`."""
        return self._digest([field]) if field in self.fields else self.input_digest

    def _digest(self, names: Iterable[str]) -> str:
        """Raises InvalidData for a value, deep in what a table holds, that JSON has none of."""
        try:
            document = _CANONICAL.encode({name: self.fields[name] for name in names})
        except TypeError as error:
            raise InvalidData(
                f"{self.source}: {error}",
                hint="Write dates and the like as texts; values are as JSON has them.",
            ) from error
        return hashlib.sha256(document.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Keys:
    """What tells examples apart, without them: `inputs` uint64 [n], the first eight bytes of each input's digest (two of a
    billion unlike inputs are taken for the same one time in forty), and whole digests of rows, one or some at a time.

    `every`: uint8 [m, 32], perhaps in a file; `places`: which of these are the n, None for all in their order.
    """

    every: NDArray[np.uint8]
    inputs: NDArray[np.uint64]
    places: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Keys:
        """By their digests."""
        rows = b"".join(bytes.fromhex(example.digest) for example in examples)
        inputs = b"".join(bytes.fromhex(example.input_digest)[:8] for example in examples)
        return cls(
            np.frombuffer(rows, np.uint8).reshape(-1, 32), np.frombuffer(inputs, ">u8").astype(np.uint64)
        )

    def select(self, places: NDArray[np.int64]) -> Keys:
        """Those at `places`."""
        inner = places if self.places is None else self.places[places]
        return Keys(self.every, self.inputs[places], inner)

    def row(self, at: int) -> bytes:
        """The sha256 of one row."""
        digest: NDArray[np.uint8] = self.every[at if self.places is None else self.places[at]]
        return digest.tobytes()

    def rows(self) -> Iterator[bytes]:
        """The sha256 of every row, many in one."""
        for start in range(0, len(self.inputs), _AT_ONCE):
            chosen = slice(start, start + _AT_ONCE)
            yield self.every[chosen if self.places is None else self.places[chosen]].tobytes()


@runtime_checkable
class KeyedExamples(Protocol):
    """A sequence of examples whose keys are known, and of which some can be chosen without reading them."""

    @property
    def keys(self) -> Keys: ...
    def select(self, places: NDArray[np.int64]) -> Sequence[Example]: ...


@dataclass(frozen=True)
class Dataset:
    """The examples of one split, in the order of their file.

    `source` names where they came from, `columns` which column was read as which field ({"text": "review"}); `settings`:
    what the reader was told that encoding must know (a prompt, a language); a recipe's `resolve` records it; `notes`: what
    is odd in them and worth a look.
    """

    examples: Sequence[Example]
    source: str
    columns: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]

    @cached_property
    def keys(self) -> Keys:
        """See Keys."""
        return self.examples.keys if isinstance(self.examples, KeyedExamples) else Keys.of(self.examples)

    def select(self, places: Sequence[int] | NDArray[np.int64]) -> Dataset:
        """The examples at `places`, in that order."""
        if isinstance(self.examples, KeyedExamples):
            return replace(self, examples=self.examples.select(np.asarray(places, np.int64)))
        return replace(self, examples=tuple(self.examples[at] for at in places))

    @cached_property
    def fingerprint(self) -> str:
        """`sha256:<hex>` over the digests of the rows, in order.

        The order counts, because the run depends on it; file names, line numbers and the file's format do
        not.
        """
        rows = hashlib.sha256()
        for some in self.keys.rows():
            rows.update(some)
        return f"sha256:{rows.hexdigest()}"
