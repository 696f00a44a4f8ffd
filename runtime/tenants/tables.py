"""The tables of tenants and of what they used, in one SQLite file.

    tenants 1─n keys          usage (a row a request)     usage_months (their sum by tenant and month)

Usage names its tenant by name and outlives it: a bill does not go with the tenant. Rows of usage are only ever inserted.
Holds no queries and opens no database.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from sqlalchemy import JSON, ForeignKey, Index, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from adapthub.adapters.home import home
from adapthub.hub.storage.database import Schema
from adapthub.hub.storage.types import UtcDateTime


class Base(DeclarativeBase):
    type_annotation_map = {datetime: UtcDateTime}  # noqa: RUF012 (SQLAlchemy wants a plain dict)


class StateRow(Base):
    """The one row that says which version of the tables this is, and how often tenants or keys were changed."""

    __tablename__ = "tenants_state"

    version: Mapped[int] = mapped_column(primary_key=True)
    revision: Mapped[int] = mapped_column(default=0)


class TenantRow(Base):
    __tablename__ = "tenants"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    allow: Mapped[list[str]] = mapped_column(JSON)
    created: Mapped[datetime]
    admin: Mapped[bool]
    weight: Mapped[float]
    requests_per_minute: Mapped[int | None]
    tokens_per_minute: Mapped[int | None]
    tokens_per_month: Mapped[int | None]

    keys: Mapped[list[KeyRow]] = relationship(
        back_populates="tenant", order_by="KeyRow.created", cascade="all, delete-orphan"
    )


class KeyRow(Base):
    """A key: the sha256 of its text, never the text."""

    __tablename__ = "keys"

    prefix: Mapped[str] = mapped_column(String(11), primary_key=True)
    hash: Mapped[str] = mapped_column(String(64))
    tenant_id: Mapped[int] = mapped_column(ForeignKey("tenants.id"))
    created: Mapped[datetime]
    expires: Mapped[datetime | None]
    revoked: Mapped[datetime | None]

    tenant: Mapped[TenantRow] = relationship(back_populates="keys")


class UsageRow(Base):
    """What one request used; `ended` in UTC."""

    __tablename__ = "usage"
    __table_args__ = (Index("usage_by_time", "ended"), Index("usage_by_tenant", "tenant", "ended"))

    id: Mapped[str] = mapped_column(primary_key=True)
    ended: Mapped[datetime]
    tenant: Mapped[str]
    kind: Mapped[str]
    adapter: Mapped[str]
    prompt_tokens: Mapped[int]
    cached_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    outcome: Mapped[str]


class MonthRow(Base):
    """The tokens of a tenant's prompts and answers in one calendar month, UTC ("2026-11"): the sum of its rows of usage,
    changed with them in one transaction."""

    __tablename__ = "usage_months"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    month: Mapped[str] = mapped_column(String(7), primary_key=True)
    tokens: Mapped[int]


SCHEMA = Schema("tenant", Base.metadata, Base.metadata.tables[StateRow.__tablename__], 1, private=True)


def default_path() -> Path:
    """Where tenants are kept: in AdaptHub's home."""
    return home() / "tenants.sqlite"
