"""Labelled examples in memory, each knowing the file and line it came from.

Does not read files (the siblings do) and knows no task: what an example's fields mean is the recipe's
business.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

TARGETS = ("label", "labels", "target", "answers", "good")
"""The fields that models learn to find; every other is their input."""


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
        """Hex sha256 of the fields as canonical JSON: equal rows have equal digests wherever they stand."""
        return _digest(self.fields)

    @property
    def input_digest(self) -> str:
        """The same without what a model shall find (TARGETS): equal for what it cannot tell apart."""
        return _digest({name: value for name, value in self.fields.items() if name not in TARGETS})


@dataclass(frozen=True)
class Dataset:
    """The examples of one split, in the order of their file.

    `source` names where they came from, `columns` which column was read as which field ({"text": "review"}); `settings`:
    what the reader was told that encoding must know (a prompt, a language); a recipe's `resolve` records it; `notes`: what
    is odd in them and worth a look.
    """

    examples: tuple[Example, ...]
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
    def fingerprint(self) -> str:
        """`sha256:<hex>` over the digests of the rows, in order.

        The order counts, because the run depends on it; file names, line numbers and the file's format do
        not.
        """
        rows = hashlib.sha256()
        for example in self.examples:
            rows.update(bytes.fromhex(example.digest))
        return f"sha256:{rows.hexdigest()}"


def _digest(fields: Mapping[str, Any]) -> str:
    canonical = json.dumps(dict(fields), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
