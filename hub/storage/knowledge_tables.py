"""The tables of what a hub knows of adapters: bases, and of each version its fit, structure, parents and results.

    bases                                  records of bases, by the digest of their fingerprint
    versions 1─0..1 knowledge n─1 structures   whether it fits its base; modules and ranks, once for all that share them
        │
        ├──n parents                       (child, digest of a parent): the edges of lineage
        └──n results n─1 boards            what came of it on a board's rows: one row an adapter and metric

Written with the version, and gone with its repository; structures and boards stay, for others share them. A version from
before these tables has no row. Holds no queries.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from adapthub.hub.storage.tables import Base
from adapthub.hub.storage.types import Hex


class BaseModelRow(Base):
    """A base that somebody recorded. `digest` is bare hex of its fingerprint's; `document` the record as JSON, by zlib."""

    __tablename__ = "bases"
    __table_args__ = (Index("bases_by_name", "name", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(Hex, unique=True)
    name: Mapped[str]
    revision: Mapped[str | None]
    model_type: Mapped[str]
    added: Mapped[datetime]
    document: Mapped[bytes]


class StructureRow(Base):
    """What an adapter's header and configuration say of modules and ranks (`hub/structure`), as JSON by zlib; `digest` is
    the sha256 of that JSON."""

    __tablename__ = "structures"

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(Hex, unique=True)
    document: Mapped[bytes]


class KnowledgeRow(Base):
    """What was found of a version at its publish. `verdict` is "fits" or "unknown"; `checked` the bare digest of the base
    that it was held against, `differences` what of the two fingerprints differs, in words; `unpinned` the parents that name
    no digest, as they were written."""

    __tablename__ = "knowledge"

    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    structure_id: Mapped[int] = mapped_column(ForeignKey("structures.id"))
    verdict: Mapped[str]
    checked: Mapped[str | None] = mapped_column(Hex)
    differences: Mapped[list[Any]]
    unpinned: Mapped[list[Any]]

    structure: Mapped[StructureRow] = relationship()


class ParentRow(Base):
    """That a version was made from the adapter with the bare digest `parent`, which its manifest calls `name`; `position`
    is the place among its parents."""

    __tablename__ = "parents"
    __table_args__ = (Index("parents_by_digest", "parent"), {"sqlite_with_rowid": False})

    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    parent: Mapped[str] = mapped_column(Hex, primary_key=True)
    name: Mapped[str]
    position: Mapped[int]


class BoardRow(Base):
    """What results are compared on: a base, by the bare digest of its fingerprint, a task, and the rows with one data
    fingerprint."""

    __tablename__ = "boards"
    __table_args__ = (
        UniqueConstraint("base", "task", "dataset"),
        Index("boards_by_task", "task"),
        Index("boards_by_dataset", "dataset"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    base: Mapped[str] = mapped_column(Hex)
    task: Mapped[str]
    dataset: Mapped[str]


class ResultRow(Base):
    """What a repository's newest version that was measured on a board came to, by one metric; `source` and `rows` are what
    its manifest says of the data."""

    __tablename__ = "results"
    __table_args__ = (
        Index("results_by_value", "board_id", "metric", "value"),
        Index("results_by_repo", "repo_id"),
        Index("results_by_version", "version_id"),
        {"sqlite_with_rowid": False},
    )

    board_id: Mapped[int] = mapped_column(ForeignKey("boards.id"), primary_key=True)
    metric: Mapped[str] = mapped_column(primary_key=True)
    repo_id: Mapped[int] = mapped_column(ForeignKey("repos.id"), primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"))
    value: Mapped[float]
    low: Mapped[float | None]
    high: Mapped[float | None]
    n: Mapped[int]
    source: Mapped[str | None]
    rows: Mapped[int]
