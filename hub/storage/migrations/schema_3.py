"""Schema 3: which part of a file bytes are that were sent for a repository, and bytes that wait for a name to be published.

Some databases of schema 2 have these already: they came into its tables before it was another schema.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from adapthub.adapters.errors import StorageError
from adapthub.hub.storage.types import UtcDateTime

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add what is missing. Raises StorageError for tables from before schema 2 was whole, which no release has made."""
    found = sa.inspect(op.get_bind())
    tables = found.get_table_names()
    unfinished = "hub_secret" not in tables or "source" not in _columns(found, "results")
    if unfinished:
        raise StorageError(
            "the hub database was made by a version of AdaptHub in development, and cannot be upgraded",
            hint="Pull its adapters with that version, and push them to a new hub.",
        )
    if "part" not in _columns(found, "sent"):
        op.add_column("sent", sa.Column("part", sa.String(), nullable=True))
    if "pending" not in tables:
        op.create_table(
            "pending",
            sa.Column("namespace", sa.String(), nullable=False),
            sa.Column("name", sa.String(), nullable=False),
            sa.Column("blob_id", _KEY, nullable=False),
            sa.Column("sent", UtcDateTime(), nullable=False),
            sa.ForeignKeyConstraint(["blob_id"], ["blobs.id"]),
            sa.PrimaryKeyConstraint("namespace", "name", "blob_id"),
            sqlite_with_rowid=False,
        )
        op.create_index("pending_by_blob", "pending", ["blob_id"], unique=False)


def _columns(found: sa.Inspector, table: str) -> set[str]:
    return {column["name"] for column in found.get_columns(table)}
