"""The tables that schema 2 has of what a hub knows of adapters: a part of `schema_2`. They begin empty."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from adapthub.hub.storage.types import Hex, UtcDateTime

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def create_knowledge() -> None:
    """Make them."""
    op.create_table(
        "bases",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("digest", Hex(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("revision", sa.String(), nullable=True),
        sa.Column("model_type", sa.String(), nullable=False),
        sa.Column("added", UtcDateTime(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("digest"),
    )
    op.create_index("bases_by_name", "bases", ["name", "id"], unique=False)
    op.create_table(
        "structures",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("digest", Hex(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("digest"),
    )
    op.create_table(
        "boards",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("base", Hex(), nullable=False),
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("dataset", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("base", "task", "dataset"),
    )
    op.create_index("boards_by_task", "boards", ["task"], unique=False)
    op.create_index("boards_by_dataset", "boards", ["dataset"], unique=False)
    op.create_table(
        "knowledge",
        sa.Column("version_id", _KEY, nullable=False),
        sa.Column("structure_id", _KEY, nullable=False),
        sa.Column("verdict", sa.String(), nullable=False),
        sa.Column("checked", Hex(), nullable=True),
        sa.Column("differences", sa.JSON(), nullable=False),
        sa.Column("unpinned", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["structure_id"], ["structures.id"]),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"]),
        sa.PrimaryKeyConstraint("version_id"),
    )
    op.create_table(
        "parents",
        sa.Column("version_id", _KEY, nullable=False),
        sa.Column("parent", Hex(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("position", _KEY, nullable=False),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"]),
        sa.PrimaryKeyConstraint("version_id", "parent"),
        sqlite_with_rowid=False,
    )
    op.create_index("parents_by_digest", "parents", ["parent"], unique=False)
    op.create_table(
        "results",
        sa.Column("board_id", _KEY, nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("repo_id", _KEY, nullable=False),
        sa.Column("version_id", _KEY, nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("low", sa.Double(), nullable=True),
        sa.Column("high", sa.Double(), nullable=True),
        sa.Column("n", _KEY, nullable=False),
        sa.Column("source", sa.String(), nullable=True),
        sa.Column("rows", _KEY, nullable=False),
        sa.ForeignKeyConstraint(["board_id"], ["boards.id"]),
        sa.ForeignKeyConstraint(["repo_id"], ["repos.id"]),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"]),
        sa.PrimaryKeyConstraint("board_id", "metric", "repo_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("results_by_value", "results", ["board_id", "metric", "value"], unique=False)
    op.create_index("results_by_repo", "results", ["repo_id"], unique=False)
    op.create_index("results_by_version", "results", ["version_id"], unique=False)
