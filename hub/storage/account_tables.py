"""The tables of those who use a hub's server: accounts, their tokens, members of namespaces. Holds no queries."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from adapthub.hub.storage.tables import Base


class AccountRow(Base):
    """Somebody, by name. The namespace of that name is theirs. `removed`: when they were; nobody gets their name."""

    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created: Mapped[datetime]
    removed: Mapped[datetime | None]

    tokens: Mapped[list[TokenRow]] = relationship(back_populates="account", order_by="TokenRow.created")


class TokenRow(Base):
    """A token: the sha256 of its text, never the text. `scope` is "read", "write" or "admin"."""

    __tablename__ = "tokens"

    prefix: Mapped[str] = mapped_column(String(11), primary_key=True)
    hash: Mapped[str] = mapped_column(String(64))
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    scope: Mapped[str] = mapped_column(String(5))
    created: Mapped[datetime]
    expires: Mapped[datetime | None]
    revoked: Mapped[datetime | None]

    account: Mapped[AccountRow] = relationship(back_populates="tokens", lazy="joined", innerjoin=True)


class MemberRow(Base):
    """What an account may do in a namespace that is not its own: `role` is "read", "write" or "admin"."""

    __tablename__ = "members"

    namespace: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    role: Mapped[str] = mapped_column(String(5))
