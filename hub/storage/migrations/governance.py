"""The part of schema 2 that keeps a hub in order: audit log, gates, keys, approvals, signatures, webhooks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from adapthub.hub.storage.governance_tables import make_append_only
from adapthub.hub.storage.types import Hex, UtcDateTime

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def create_governance() -> None:
    """Make the tables, of which old hubs had none."""
    op.create_table(
        "audit",
        sa.Column("number", KEY, autoincrement=False, nullable=False),
        sa.Column("time", UtcDateTime(), nullable=False),
        sa.Column("actor", sa.String(), nullable=True),
        sa.Column("token", sa.String(), nullable=True),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("namespace", sa.String(), nullable=True),
        sa.Column("repo", sa.String(), nullable=True),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("previous", Hex(), nullable=False),
        sa.Column("hash", Hex(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_index("audit_by_action", "audit", ["action", "number"], unique=False)
    op.create_index("audit_by_actor", "audit", ["actor", "number"], unique=False)
    op.create_index("audit_by_namespace", "audit", ["namespace", "number"], unique=False)
    op.create_index("audit_by_repo", "audit", ["repo", "number"], unique=False)
    op.create_table(
        "gates",
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("signature", sa.Boolean(), nullable=False),
        sa.Column("evaluations", sa.JSON(), nullable=False),
        sa.Column("reviewers", KEY, nullable=False),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "name", "alias"),
    )
    op.create_table(
        "namespace_keys",
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("key_id", Hex(), nullable=False),
        sa.Column("pem", sa.String(), nullable=False),
        sa.Column("added", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "name"),
    )
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("secret", sa.String(), nullable=False),
        sa.Column("events", sa.JSON(), nullable=False),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("webhooks_by_namespace", "webhooks", ["namespace", "name"], unique=False)
    op.create_table(
        "deliveries",
        sa.Column("id", KEY, nullable=False),
        sa.Column("webhook_id", sa.String(), nullable=False),
        sa.Column("event_id", sa.String(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("body", sa.String(), nullable=False),
        sa.Column("created", UtcDateTime(), nullable=False),
        sa.Column("due", UtcDateTime(), nullable=True),
        sa.Column("attempts", KEY, nullable=False),
        sa.Column("arrived", UtcDateTime(), nullable=True),
        sa.Column("answer", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["webhook_id"], ["webhooks.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("deliveries_by_due", "deliveries", ["due"], unique=False)
    op.create_index("deliveries_by_webhook", "deliveries", ["webhook_id", "id"], unique=False)
    op.create_table(
        "approvals",
        sa.Column("version_id", KEY, nullable=False),
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("approved", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"]),
        sa.PrimaryKeyConstraint("version_id", "account"),
    )
    op.create_table(
        "version_signatures",
        sa.Column("version_id", KEY, nullable=False),
        sa.Column("commit_id", KEY, nullable=False),
        sa.Column("blob_id", KEY, nullable=False),
        sa.ForeignKeyConstraint(["blob_id"], ["blobs.id"]),
        sa.ForeignKeyConstraint(["commit_id"], ["commits.id"]),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"]),
        sa.PrimaryKeyConstraint("version_id"),
    )
    op.create_index("signatures_by_blob", "version_signatures", ["blob_id"], unique=False)
    op.create_index("signatures_by_commit", "version_signatures", ["commit_id"], unique=False)
    make_append_only(op.get_bind())
