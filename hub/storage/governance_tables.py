"""The tables of what keeps a hub in order: the audit log, keys and gates of namespaces, approvals, signatures, webhooks.

A gate, a key and a webhook belong to a name, not to what lies there: they hold also before a repository of that name is
made and after it is deleted. `name` "" is every repository of the namespace. Holds no queries.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, ForeignKey, Index, Table, event
from sqlalchemy.orm import Mapped, mapped_column, relationship

from adapthub.hub.storage.tables import Base, BlobRow, CommitRow
from adapthub.hub.storage.types import Hex


class AuditRow(Base):
    """One thing that happened, in the order of `number` (from 1, without gaps). `hash` is over all other columns, `previous`
    the hash of the entry before. `repo` is a full name, `token` a prefix; `actor` NULL is whoever uses the machine
    itself."""

    __tablename__ = "audit"
    __table_args__ = (
        Index("audit_by_repo", "repo", "number"),
        Index("audit_by_namespace", "namespace", "number"),
        Index("audit_by_actor", "actor", "number"),
        Index("audit_by_action", "action", "number"),
    )

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    time: Mapped[datetime]
    actor: Mapped[str | None]
    token: Mapped[str | None]
    action: Mapped[str]
    namespace: Mapped[str | None]
    repo: Mapped[str | None]
    detail: Mapped[dict[str, Any]]
    previous: Mapped[str] = mapped_column(Hex)
    hash: Mapped[str] = mapped_column(Hex)


class NamespaceKeyRow(Base):
    """A public key whose signatures the gates of a namespace believe: `pem` is its text, `key_id` the sha256 of that."""

    __tablename__ = "namespace_keys"

    namespace: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    key_id: Mapped[str] = mapped_column(Hex)
    pem: Mapped[str]
    added: Mapped[datetime]


class GateRow(Base):
    """What must hold before an alias that fits the pattern `alias` moves. `evaluations` is a list of texts such as
    "test/f1"."""

    __tablename__ = "gates"

    namespace: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    alias: Mapped[str] = mapped_column(primary_key=True)
    signature: Mapped[bool]
    evaluations: Mapped[list[Any]]
    reviewers: Mapped[int]
    created: Mapped[datetime]


class ApprovalRow(Base):
    """That an account found a version good."""

    __tablename__ = "approvals"

    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    account: Mapped[str] = mapped_column(primary_key=True)
    approved: Mapped[datetime]


class SignatureRow(Base):
    """The newest signature of a version: `blob` is model.sig, and `commit` the one whose tree is the version's and it."""

    __tablename__ = "version_signatures"

    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    commit_id: Mapped[int] = mapped_column(ForeignKey("commits.id"))
    blob_id: Mapped[int] = mapped_column(ForeignKey("blobs.id"))

    commit: Mapped[CommitRow] = relationship()
    blob: Mapped[BlobRow] = relationship()


class WebhookRow(Base):
    """Who is told what: `events` is a list of names, empty for all. The secret is kept as it is: it signs what is sent."""

    __tablename__ = "webhooks"
    __table_args__ = (Index("webhooks_by_namespace", "namespace", "name"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    namespace: Mapped[str]
    name: Mapped[str]
    url: Mapped[str]
    secret: Mapped[str]
    events: Mapped[list[Any]]
    created: Mapped[datetime]


class DeliveryRow(Base):
    """An event on its way to a webhook. `due` NULL: it arrived, or was given up."""

    __tablename__ = "deliveries"
    __table_args__ = (Index("deliveries_by_due", "due"), Index("deliveries_by_webhook", "webhook_id", "id"))

    id: Mapped[int] = mapped_column(primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id"))
    event_id: Mapped[str]
    type: Mapped[str]
    body: Mapped[str]
    created: Mapped[datetime]
    due: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(default=0)
    arrived: Mapped[datetime | None]
    answer: Mapped[str | None]

    webhook: Mapped[WebhookRow] = relationship()


_REFUSAL = "the audit log is append-only"
_APPEND_ONLY = {
    "sqlite": tuple(
        f"CREATE TRIGGER audit_no_{verb} BEFORE {verb} ON audit BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
        for verb in ("update", "delete")
    ),
    "postgresql": (
        "CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION '{_REFUSAL}'; END $$",
        "CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit"
        " FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()",
    ),
}


def make_append_only(connection: Connection) -> None:
    """Let the database refuse to change or delete entries of the audit log."""
    for statement in _APPEND_ONLY[connection.dialect.name]:
        connection.exec_driver_sql(statement)


@event.listens_for(AuditRow.__table__, "after_create")
def _made(_: Table, connection: Connection, **__: Any) -> None:
    make_append_only(connection)
