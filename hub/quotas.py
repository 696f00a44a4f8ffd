"""How much a namespace may hold: the bytes of all blobs that its repositories name or were sent, and of those that were sent
for a name in it that is to be published, each counted once.

A namespace without a quota holds what the disk holds, and nothing is counted for it. Every function runs inside a
transaction of the database's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import CompoundSelect, Select, delete, func, select, union
from sqlalchemy.orm import Session

from adapthub.adapters.errors import Forbidden, InvalidSettings
from adapthub.hub import audit
from adapthub.hub.audit import MACHINE, Actor
from adapthub.hub.reference import Reference
from adapthub.hub.storage.dialects import insert_or_update
from adapthub.hub.storage.tables import BlobRow, CommitRow, FileRow, RepoRow
from adapthub.hub.storage.upkeep_tables import PendingRow, QuotaRow, SentRow
from adapthub.hub.trees import Blob


def set_quota(session: Session, namespace: str, most: int | None, *, actor: Actor = MACHINE) -> None:
    """Let a namespace hold at most so many bytes; None takes the quota away. What it holds already stays.

    Raises InvalidReference for what no namespace is called, InvalidSettings for a negative number.
    """
    Reference(None, namespace, "any")
    if most is not None and most < 0:
        raise InvalidSettings(f"a quota of {most} bytes is none", hint="Give 0 bytes or more.")
    if most is None:
        session.execute(delete(QuotaRow).where(QuotaRow.namespace == namespace))
    else:
        quota = {"namespace": namespace, "bytes": most}
        insert_or_update(session, QuotaRow, [quota], key=["namespace"], changed=["bytes"])
    audit.record(session, actor, "quota.set", namespace=namespace, bytes=most)


def list_quotas(session: Session) -> list[tuple[str, int, int]]:
    """Every namespace that has a quota: its name, the bytes that it holds, and may hold."""
    rows = session.scalars(select(QuotaRow).order_by(QuotaRow.namespace)).all()
    return [(row.namespace, used(session, row.namespace), row.bytes) for row in rows]


def check(session: Session, namespace: str, blobs: Iterable[Blob]) -> None:
    """Raises Forbidden where `namespace`, with those `blobs` too, would hold more than it may."""
    if session.get(QuotaRow, namespace) is not None:
        _check(session, namespace, blobs)


def _check(session: Session, namespace: str, blobs: Iterable[Blob]) -> None:
    """As `check`, for a namespace that has a quota."""
    new = {blob.sha256: blob.size for blob in blobs}
    there = session.scalars(
        select(BlobRow.sha256).where(BlobRow.id.in_(_held(namespace)), BlobRow.sha256.in_(list(new)))
    )
    for sha256 in there.all():
        del new[sha256]
    check_bytes(session, namespace, sum(new.values()))


def reserve(session: Session, namespace: str, blobs: Iterable[Blob]) -> None:
    """As `check`, in the transaction that adds them: others that add to `namespace` wait until it ends."""
    if session.get(QuotaRow, namespace, with_for_update=True) is not None:
        _check(session, namespace, blobs)


def check_bytes(session: Session, namespace: str, more: int) -> None:
    """Raises Forbidden where `namespace` may not hold `more` bytes than it does."""
    quota = session.get(QuotaRow, namespace)
    if quota is None or not more:
        return
    now = used(session, namespace)
    if now + more > quota.bytes:
        raise Forbidden(
            f"{namespace}/ holds {now:,} bytes and may hold {quota.bytes:,}: there is no room for {more:,} more",
            hint="Delete repositories of it, or ask whoever runs this hub (adapt hub quota set).",
        )


def check_move(session: Session, repo: RepoRow, namespace: str) -> None:
    """Raises Forbidden where `namespace`, with all that `repo` has, would hold more than it may."""
    if session.get(QuotaRow, namespace, with_for_update=True) is not None:
        rows = session.execute(
            select(BlobRow.sha256, BlobRow.size).where(BlobRow.id.in_(union(*_keys([repo.id]))))
        )
        _check(session, namespace, [Blob(*row) for row in rows])


def used(session: Session, namespace: str) -> int:
    """The bytes that a namespace holds."""
    return session.scalar(select(func.sum(BlobRow.size)).where(BlobRow.id.in_(_held(namespace)))) or 0


def _held(namespace: str) -> CompoundSelect[Any]:
    repos = select(RepoRow.id).where(RepoRow.namespace == namespace)
    return union(*_keys(repos), select(PendingRow.blob_id).where(PendingRow.namespace == namespace))


def _keys(repos: Select[Any] | list[int]) -> tuple[Select[Any], Select[Any]]:
    named = select(FileRow.blob_id).join(CommitRow, CommitRow.id == FileRow.commit_id)
    return named.where(CommitRow.repo_id.in_(repos)), select(SentRow.blob_id).where(
        SentRow.repo_id.in_(repos)
    )
