"""The tables of a hub's upkeep: which repository was sent what, the epoch of uploads, the secret, quotas, logins that wait.

Holds no queries.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from adapthub.hub.storage.tables import Base


class SentRow(Base):
    """Bytes that somebody uploaded for a repository, whether or not they were new to the hub. Until a commit of it names
    them this is what says that it may. `part`: which part of a file they are, "sha256/number", or "sha256/" for
    several of it, where they are nothing else: what comes in their place takes their room too."""

    __tablename__ = "sent"
    __table_args__ = (Index("sent_by_blob", "blob_id"), {"sqlite_with_rowid": False})

    repo_id: Mapped[int] = mapped_column(ForeignKey("repos.id"), primary_key=True)
    blob_id: Mapped[int] = mapped_column(ForeignKey("blobs.id"), primary_key=True)
    sent: Mapped[datetime]
    part: Mapped[str | None]


class PendingRow(Base):
    """Bytes that somebody uploaded for an adapter of that name, which there need not be yet, and is about to publish."""

    __tablename__ = "pending"
    __table_args__ = (Index("pending_by_blob", "blob_id"), {"sqlite_with_rowid": False})

    namespace: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    blob_id: Mapped[int] = mapped_column(ForeignKey("blobs.id"), primary_key=True)
    sent: Mapped[datetime]


class EpochRow(Base):
    """The one row that says in which epoch uploads are (`upkeep.epoch`)."""

    __tablename__ = "hub_epoch"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int]


class SecretRow(Base):
    """The one row with what this hub's servers sign addresses with (`server/serving`)."""

    __tablename__ = "hub_secret"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    secret: Mapped[bytes]


class QuotaRow(Base):
    """The most that a namespace may hold, in bytes."""

    __tablename__ = "quotas"

    namespace: Mapped[str] = mapped_column(primary_key=True)
    bytes: Mapped[int]


class LoginRow(Base):
    """A login that waits for somebody to allow it: the sha256 of what its client asks with, and the code that people type.

    `account` and `scope` once it is allowed, and `approver`, the prefix of the token that allowed it (NULL: the machine
    itself); `denied` where it is not. `address`: where its client asked from.
    """

    __tablename__ = "logins"

    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    code: Mapped[str] = mapped_column(String(9), unique=True)
    expires: Mapped[datetime]
    account: Mapped[str | None]
    scope: Mapped[str | None] = mapped_column(String(5))
    denied: Mapped[bool] = mapped_column(default=False)
    approver: Mapped[str | None] = mapped_column(String(11))
    address: Mapped[str] = mapped_column(default="")
