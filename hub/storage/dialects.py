"""Statements that SQLAlchemy has for each database apart. Holds no tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Session


def insert_new(session: Session, row: type[DeclarativeBase], values: Sequence[dict[str, Any]]) -> None:
    """Insert rows, but those whose keys are there already."""
    if session.get_bind().dialect.name == "sqlite":
        session.execute(sqlite.insert(row).on_conflict_do_nothing(), values)
    else:
        session.execute(postgresql.insert(row).on_conflict_do_nothing(), values)
