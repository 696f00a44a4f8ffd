"""The tables of a hub: names, versions, and what was extracted from them for search.

    adapters 1─n versions 1─n files    (path, sha256 of a blob)
        │            ├─────n labels
        │            └─────n metrics
        └──n aliases, alias_moves      (each points to a version)

Rows of versions, files, labels, metrics and moves are only ever inserted. Holds no queries and opens no
database.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    Connection,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    MetaData,
    String,
    TypeDecorator,
    UniqueConstraint,
    event,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from adapthub.hub.storage.database import Schema

SCHEMA = 1
"""The version of these tables, stored in `hub_schema` and raised with every change to them."""


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC, also where the database keeps none of that (SQLite)."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    type_annotation_map = {datetime: UtcDateTime}  # noqa: RUF012 (SQLAlchemy wants a plain dict)


class SchemaRow(Base):
    """The one row that says which version of the tables this database holds."""

    __tablename__ = "hub_schema"

    version: Mapped[int] = mapped_column(primary_key=True)


class AdapterRow(Base):
    """A name. `newest` is the number of its newest version, and so the count of its versions."""

    __tablename__ = "adapters"
    __table_args__ = (UniqueConstraint("namespace", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    namespace: Mapped[str]
    name: Mapped[str]
    newest: Mapped[int]

    versions: Mapped[list[VersionRow]] = relationship(
        back_populates="adapter", order_by="VersionRow.number.desc()"
    )
    aliases: Mapped[list[AliasRow]] = relationship(order_by="AliasRow.alias")
    moves: Mapped[list[AliasMoveRow]] = relationship(order_by="AliasMoveRow.id")


class VersionRow(Base):
    """One immutable version. `digest` is bare hex; what the artifact does not say is NULL."""

    __tablename__ = "versions"
    __table_args__ = (
        UniqueConstraint("adapter_id", "number"),
        UniqueConstraint("adapter_id", "digest"),
        Index("versions_by_base", "base"),
        Index("versions_by_base_fingerprint", "base_fingerprint"),
        Index("versions_by_task", "task"),
        Index("versions_by_method", "method"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"))
    number: Mapped[int]
    digest: Mapped[str] = mapped_column(String(64))
    created: Mapped[datetime]
    message: Mapped[str]
    size: Mapped[int]
    method: Mapped[str | None]
    task: Mapped[str | None]
    base: Mapped[str | None]
    base_fingerprint: Mapped[str | None]
    rank: Mapped[int | None]

    adapter: Mapped[AdapterRow] = relationship(back_populates="versions")
    files: Mapped[list[FileRow]] = relationship(order_by="FileRow.path")
    labels: Mapped[list[LabelRow]] = relationship(order_by="LabelRow.position")
    metrics: Mapped[list[MetricRow]] = relationship(order_by="(MetricRow.split, MetricRow.name)")


class FileRow(Base):
    """A file of a version; its bytes are the blob `sha256`."""

    __tablename__ = "files"
    __table_args__ = (Index("files_by_sha256", "sha256"),)

    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    path: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int]


class LabelRow(Base):
    """A label that a version's head predicts, in the order of its outputs."""

    __tablename__ = "labels"
    __table_args__ = (Index("labels_by_label", "label", "version_id"),)

    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    label: Mapped[str]


class MetricRow(Base):
    """A metric of a version on one split. `headline` marks the row that lists and searches use."""

    __tablename__ = "metrics"
    __table_args__ = (Index("metrics_by_value", "name", "headline", "value"),)

    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    split: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[float]
    low: Mapped[float | None]
    high: Mapped[float | None]
    n: Mapped[int]
    headline: Mapped[bool]


class AliasRow(Base):
    """Where an alias points now."""

    __tablename__ = "aliases"

    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"), primary_key=True)
    alias: Mapped[str] = mapped_column(primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"))

    version: Mapped[VersionRow] = relationship()


class AliasMoveRow(Base):
    """One move of an alias. `undoes` is the move that a rollback took back; NULL marks a promotion."""

    __tablename__ = "alias_moves"
    __table_args__ = (Index("alias_moves_by_alias", "adapter_id", "alias"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    adapter_id: Mapped[int] = mapped_column(ForeignKey("adapters.id"))
    alias: Mapped[str]
    moved: Mapped[datetime]
    source_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"))
    target_id: Mapped[int] = mapped_column(ForeignKey("versions.id"))
    undoes: Mapped[int | None] = mapped_column(ForeignKey("alias_moves.id"), unique=True)

    source: Mapped[VersionRow | None] = relationship(foreign_keys=[source_id])
    target: Mapped[VersionRow] = relationship(foreign_keys=[target_id])


def _create_text_index(_metadata: MetaData, connection: Connection, **_options: object) -> None:
    # The text that search looks through: one row an adapter, keyed by its id. Trigrams find any substring of
    # three or more characters, in any language, without a scan; SQLAlchemy has no type that says so.
    connection.exec_driver_sql("CREATE VIRTUAL TABLE adapter_text USING fts5(text, tokenize = 'trigram')")


event.listen(Base.metadata, "after_create", _create_text_index)

HUB = Schema("hub", Base.metadata, Base.metadata.tables[SchemaRow.__tablename__], SCHEMA)
