"""The tables: what is deleted is not looked for by reading whole tables."""

from __future__ import annotations

from sqlalchemy import Table, UniqueConstraint

from adapthub.hub.storage.schema import HUB

DELETED = {"repos", "commits", "versions", "blobs", "alias_moves", "webhooks"}


def test_what_refers_to_what_is_deleted_has_an_index_for_it() -> None:
    """A database asks every table that refers to a row whether it still does when the row goes."""
    without = [
        f"{table.name}.{key.parent.name}"
        for table in HUB.metadata.sorted_tables
        for key in table.foreign_keys
        if key.column.table.name in DELETED and key.parent.name not in first_columns(table)
    ]
    assert without == []


def first_columns(table: Table) -> set[str]:
    """The columns that a key or an index of `table` begins with."""
    found = {next(iter(index.columns)).name for index in table.indexes}
    found |= {next(iter(one.columns)).name for one in table.constraints if isinstance(one, UniqueConstraint)}
    return {*found, next(iter(table.primary_key.columns)).name}
