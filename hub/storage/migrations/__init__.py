"""From one version of a hub's tables to the next, by alembic: `schema_N` brings a database of schema N - 1 to schema N.

A step is written down as it was when its schema was released and never changed afterwards: it does not use the tables'
classes, which go on. Until a schema is released its step changes with them; a test compares what both make. Runs inside one
transaction, under a lock (database).
"""

from __future__ import annotations

from importlib import import_module

from sqlalchemy import Connection


def upgrade(connection: Connection, found: int) -> None:
    """Bring tables of schema `found` up to date."""
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    from adapthub.hub.storage.tables import SCHEMA

    with Operations.context(MigrationContext.configure(connection)):
        for number in range(found + 1, SCHEMA + 1):
            import_module(f"adapthub.hub.storage.migrations.schema_{number}").upgrade()
