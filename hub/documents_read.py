"""The documents of `documents` as a hub's server answers them, back to a registry's values. Reads no network.

What does not read so raises pydantic's ValidationError.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, BeforeValidator

from adapthub.hub.registry import Ancestor, Entry, Facts, Lineage, Metric, Version


def _number(text: object) -> object:
    return text[1:] if isinstance(text, str) and text.startswith("v") else text


_Number = Annotated[int, BeforeValidator(_number)]


class EntryDocument(BaseModel):
    """What `documents.entry_record` made."""

    name: str
    version: _Number
    digest: str
    created: datetime
    message: str
    size: int
    task: str | None
    method: str | None
    rank: int | None
    labels: tuple[str, ...] | None
    base: str | None
    base_fingerprint: str | None
    metrics: tuple[Metric, ...]
    versions: int
    aliases: dict[str, _Number]

    def entry(self) -> Entry:
        """The value."""
        return Entry(
            Version(self.name, self.version, self.digest, self.created, self.message, self.size),
            Facts(
                self.method,
                self.task,
                self.labels,
                self.base,
                self.base_fingerprint,
                self.rank,
                self.metrics,
            ),
            self.versions,
            self.aliases,
        )


class _AncestorDocument(BaseModel):
    digest: str
    name: str
    version: _Number | None
    parents: tuple[str, ...]
    found: bool

    def ancestor(self) -> Ancestor:
        return Ancestor(self.digest, self.name, self.version, self.parents, self.found)


class LineageDocument(BaseModel):
    """What `documents.lineage_record` made."""

    root: str
    versions: tuple[_AncestorDocument, ...]
    descendants: tuple[_AncestorDocument, ...]
    unpinned: tuple[str, ...]
    cut: bool

    def lineage(self) -> Lineage:
        """The value."""
        return Lineage(
            self.root,
            {one.digest: one.ancestor() for one in self.versions},
            self.unpinned,
            self.cut,
            {one.digest: one.ancestor() for one in self.descendants},
        )
