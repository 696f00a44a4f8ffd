"""Statements that SQLAlchemy has for each database apart. Holds no tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, ColumnClause, ColumnElement, Select, cast, column, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Session


def insert_new(session: Session, row: type[DeclarativeBase], values: Sequence[dict[str, Any]]) -> None:
    """Insert rows, but those whose keys are there already."""
    if session.get_bind().dialect.name == "sqlite":
        session.execute(sqlite.insert(row).on_conflict_do_nothing(), values)
    else:
        session.execute(postgresql.insert(row).on_conflict_do_nothing(), values)


def insert_or_update(
    session: Session,
    row: type[DeclarativeBase],
    values: Sequence[dict[str, Any]],
    *,
    key: Sequence[str],
    changed: Sequence[str],
) -> None:
    """Insert rows; of those whose `key` is there already change the columns `changed`. Each is there afterwards, and no
    other writer's until the transaction ends, also where one deletes it at the same time."""
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    statement = dialect.insert(row)
    new = {column: statement.excluded[column] for column in changed}
    session.execute(statement.on_conflict_do_update(index_elements=list(key), set_=new), values)


def known_keys(session: Session, keys: Sequence[int]) -> ColumnElement[int]:
    """A column of a table that has `keys`, each in a row: one parameter, however many they are."""
    key: ColumnClause[int] = column("value", BigInteger)
    if session.get_bind().dialect.name == "sqlite":
        rows = func.json_each(json.dumps([*keys])).table_valued(key, name="few")
    else:
        array = cast([*keys], postgresql.ARRAY(BigInteger))
        rows = func.unnest(array).table_valued(key, name="few").render_derived()
    return rows.c.value


def gathered(session: Session, query: Select[int]) -> list[int]:
    """The one column of `query`, of whose rows none is NULL: as one value, for making rows of thousands of numbers takes
    longer than finding them."""
    (column,) = query.subquery().c
    if session.get_bind().dialect.name == "sqlite":
        found: list[int] = json.loads(session.scalars(select(func.json_group_array(column))).one())
        return found
    return session.scalar(select(func.array_agg(column))) or []
