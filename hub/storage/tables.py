"""The tables of a hub.

    repos 1─n commits 1─n files n─1 blobs     a repository's history: a commit is a tree of (path, blob)
      │         │
      │         └─0..1 versions               a commit on main whose tree is a whole adapter, numbered
      ├──n refs                               branches and tags: names for commits
      ├──n aliases, alias_moves               names for versions, and every move that they made
      └──n terms, metrics, repo_text          what lists and searches look at: of the newest version alone

A version's key is its commit's. Rows of commits, files, versions and moves are only ever inserted; they go when their
repository does. Lists never touch old versions: whatever they filter and sort by is kept once a repository. Accounts and
tokens are in `account_tables`, the text index in `text`. Holds no queries and opens no database.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, MetaData, Sequence, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from adapthub.hub.storage.types import Hex, UtcDateTime

SCHEMA = 3
"""The version of these tables, stored in `hub_schema` and raised with every change to them."""

MAIN = "main"
"""The branch that versions are commits of."""

# SQLite counts its keys by itself only where they are INTEGER.
Key = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    metadata = MetaData()
    type_annotation_map = {datetime: UtcDateTime, int: Key, dict[str, Any]: JSON, list[Any]: JSON}  # noqa: RUF012


SEQUENCE = Sequence("repo_sequence", metadata=Base.metadata)
"""Where PostgreSQL takes `repos.sequence` from; SQLite, whose writers are alone, adds one to the greatest."""


class SchemaRow(Base):
    """The one row that says which version of the tables this database holds."""

    __tablename__ = "hub_schema"

    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class RepoRow(Base):
    """A name. `newest` is the number of its newest version, and so the count of its versions.

    `sequence` grows with every change of main, over all repositories: newest first is by it, also in `terms` and in the text
    index, so that a page of a list is the end of an index. `card` is the metadata of README.md on main, `tags` what it and
    the newest version come to.
    """

    __tablename__ = "repos"
    __table_args__ = (
        UniqueConstraint("namespace", "name"),
        Index("repos_by_namespace", "namespace", "sequence"),
        Index("repos_by_name", "name"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    namespace: Mapped[str]
    name: Mapped[str]
    private: Mapped[bool] = mapped_column(default=False)
    gated: Mapped[str | None]
    created: Mapped[datetime]
    modified: Mapped[datetime]
    sequence: Mapped[int] = mapped_column(unique=True)
    newest: Mapped[int] = mapped_column(default=0)
    tags: Mapped[list[Any]]
    card: Mapped[dict[str, Any]]

    aliases: Mapped[list[AliasRow]] = relationship(order_by="AliasRow.alias")
    moves: Mapped[list[AliasMoveRow]] = relationship(order_by="AliasMoveRow.id")

    @property
    def full_name(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"


class BlobRow(Base):
    """Bytes that the blob store holds.

    `stored` is when they were last uploaded or reported as there: what is younger may be waiting for its commit.
    """

    __tablename__ = "blobs"

    id: Mapped[int] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(Hex, unique=True)
    size: Mapped[int]
    stored: Mapped[datetime]


class CommitRow(Base):
    """One state of a repository's files. `oid` is 40 hex digits; `parent_id` is None for the first."""

    __tablename__ = "commits"
    __table_args__ = (UniqueConstraint("repo_id", "oid"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    repo_id: Mapped[int] = mapped_column(ForeignKey("repos.id"))
    oid: Mapped[str] = mapped_column(Hex)
    parent_id: Mapped[int | None]  # no foreign key: one would need an index that nothing else uses
    author: Mapped[str | None]
    message: Mapped[str]
    created: Mapped[datetime]

    files: Mapped[list[FileRow]] = relationship(order_by="FileRow.path")


class FileRow(Base):
    """A file of a commit. `sha1` is git's id of it where its bytes came with a commit; what came by LFS has none. It is no
    part of the blob: of two who have the same bytes, one may have sent them so and the other so."""

    __tablename__ = "files"
    __table_args__ = (Index("files_by_blob", "blob_id"), {"sqlite_with_rowid": False})

    commit_id: Mapped[int] = mapped_column(ForeignKey("commits.id"), primary_key=True)
    path: Mapped[str] = mapped_column(primary_key=True)
    blob_id: Mapped[int] = mapped_column(ForeignKey("blobs.id"))
    sha1: Mapped[str | None] = mapped_column(Hex)

    blob: Mapped[BlobRow] = relationship(lazy="joined", innerjoin=True)


class RefRow(Base):
    """A branch or a tag; one name is never both. Only branches move."""

    __tablename__ = "refs"
    __table_args__ = (Index("refs_by_commit", "commit_id"), {"sqlite_with_rowid": False})

    repo_id: Mapped[int] = mapped_column(ForeignKey("repos.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    is_tag: Mapped[bool] = mapped_column(default=False)
    commit_id: Mapped[int] = mapped_column(ForeignKey("commits.id"))
    message: Mapped[str] = mapped_column(default="")

    commit: Mapped[CommitRow] = relationship()


class VersionRow(Base):
    """A whole adapter: the commit of the same id. `digest` is bare hex; what the artifact does not say is NULL.

    `labels` are in the order of the head's outputs, `metrics` a list of [split, name, value, low, high, n].
    """

    __tablename__ = "versions"
    __table_args__ = (
        UniqueConstraint("repo_id", "number"),
        UniqueConstraint("repo_id", "digest"),
        Index("versions_by_digest", "digest"),
    )

    id: Mapped[int] = mapped_column(ForeignKey("commits.id"), primary_key=True)
    repo_id: Mapped[int] = mapped_column(ForeignKey("repos.id"))
    number: Mapped[int]
    digest: Mapped[str] = mapped_column(Hex)
    size: Mapped[int]
    method: Mapped[str | None]
    task: Mapped[str | None]
    base: Mapped[str | None]
    base_fingerprint: Mapped[str | None]
    rank: Mapped[int | None]
    labels: Mapped[list[Any]]
    metrics: Mapped[list[Any]]

    commit: Mapped[CommitRow] = relationship()
    repo: Mapped[RepoRow] = relationship()


class TermRow(Base):
    """Something that a repository is found by exactly: `kind` is "tag", "task", "base", "fingerprint", "method" or "label".

    The sequence is the repository's: of the repositories with one term, the newest are the end of a range of the key.
    """

    __tablename__ = "terms"
    __table_args__ = (Index("terms_by_repo", "repo_id", "kind", "term"), {"sqlite_with_rowid": False})

    kind: Mapped[str] = mapped_column(primary_key=True)
    term: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True)
    repo_id: Mapped[int] = mapped_column(ForeignKey("repos.id"))


class MetricRow(Base):
    """What a repository's newest version came to, on the split that lists and searches use."""

    __tablename__ = "metrics"
    __table_args__ = (Index("metrics_by_value", "name", "value", "repo_id"), {"sqlite_with_rowid": False})

    repo_id: Mapped[int] = mapped_column(ForeignKey("repos.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[float]


class AliasRow(Base):
    """Where an alias points now."""

    __tablename__ = "aliases"
    __table_args__ = (Index("aliases_by_version", "version_id"), {"sqlite_with_rowid": False})

    repo_id: Mapped[int] = mapped_column(ForeignKey("repos.id"), primary_key=True)
    alias: Mapped[str] = mapped_column(primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"))

    version: Mapped[VersionRow] = relationship(lazy="joined", innerjoin=True)


class AliasMoveRow(Base):
    """One move of an alias. `undoes` is the move that a rollback took back; NULL marks a promotion."""

    __tablename__ = "alias_moves"
    __table_args__ = (
        Index("moves_by_alias", "repo_id", "alias"),
        Index("moves_by_source", "source_id"),
        Index("moves_by_target", "target_id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    repo_id: Mapped[int] = mapped_column(ForeignKey("repos.id"))
    alias: Mapped[str]
    moved: Mapped[datetime]
    source_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"))
    target_id: Mapped[int] = mapped_column(ForeignKey("versions.id"))
    undoes: Mapped[int | None] = mapped_column(ForeignKey("alias_moves.id"), unique=True)

    source: Mapped[VersionRow | None] = relationship(foreign_keys=[source_id], lazy="joined")
    target: Mapped[VersionRow] = relationship(foreign_keys=[target_id], lazy="joined", innerjoin=True)
