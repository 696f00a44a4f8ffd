"""Column types that every database of ours has: times in UTC, and digests as bytes. Holds no tables."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Dialect, LargeBinary, TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC, also where the database keeps none of that (SQLite)."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class Hex(TypeDecorator[str]):
    """Hex digits, an even number of them, kept as bytes: half the room of text, in rows and in every index."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> bytes | None:
        return None if value is None else bytes.fromhex(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else bytes(value).hex()


def hex_range(prefix: str, digits: int) -> tuple[str, str]:
    """The least and the greatest of the values of so many `digits` that begin with `prefix`."""
    return prefix.ljust(digits, "0"), prefix.ljust(digits, "f")
