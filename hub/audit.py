"""The audit log: what was done to a hub, by whom, in a chain that shows where somebody changed it.

Each entry has the hash of the one before it, and its own hash is the sha256 of its canonical JSON (RFC 8785) with that. An
entry is written in the transaction of what it records, so the one is there exactly when the other is; the database itself
refuses to change or delete entries. Whoever owns the database's file can still write the whole chain anew: keep the hash
that `verify` gives somewhere else, and ask for it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import rfc8785
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from adapthub.adapters.errors import IntegrityError
from adapthub.hub.storage.governance_tables import AuditRow

START = "0" * 64
_LOCK = 0x6164617074617564  # "adaptaud": any number that others do not use
_AT_ONCE = 1000


@dataclass(frozen=True)
class Actor:
    """Who does something: their account, and the prefix of the token that they did it with. Nobody (MACHINE) is whoever uses
    the machine itself: the embedded hub and the command line."""

    account: str | None = None
    token: str | None = None


MACHINE = Actor()


@dataclass(frozen=True)
class Event:
    """Something that is done: what, to which namespace or repository (a full name), and what else is to be said of it."""

    action: str
    namespace: str | None = None
    repo: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AuditEntry:
    """One thing that happened. `repo` is a full name; `hash` and `previous` are hex."""

    number: int
    time: datetime
    actor: str | None
    token: str | None
    action: str
    namespace: str | None
    repo: str | None
    detail: Mapping[str, Any]
    previous: str
    hash: str


@dataclass(frozen=True)
class Chain:
    """A chain that was found whole: how many entries, and the hash of the last."""

    entries: int
    head: str


def record(
    session: Session,
    actor: Actor,
    action: str,
    *,
    namespace: str | None = None,
    repo: str | None = None,
    **detail: Any,
) -> AuditEntry:
    """Write down what this transaction does. Other writers of the log wait until it ends: call it after what it records."""
    return record_together(session, actor, [Event(action, namespace, repo, detail)])[0]


def record_together(session: Session, actor: Actor, events: Sequence[Event]) -> list[AuditEntry]:
    """As `record`, of several things in this order."""
    lock(session)
    last = session.execute(
        select(AuditRow.number, AuditRow.hash).order_by(AuditRow.number.desc()).limit(1)
    ).one_or_none()
    number, previous = (0, START) if last is None else (last.number, last.hash)
    rows = []
    for event in events:
        number += 1
        row = AuditRow(
            number=number,
            time=datetime.now(UTC),
            actor=actor.account,
            token=actor.token,
            action=event.action,
            namespace=event.namespace or (event.repo.partition("/")[0] if event.repo else None),
            repo=event.repo,
            detail=event.detail,
            previous=previous,
        )
        previous = row.hash = _hash_of(row)
        rows.append(row)
    session.add_all(rows)
    session.flush()
    return [_entry(row) for row in rows]


def lock(session: Session) -> None:
    """Let this transaction alone write to the log until it ends. In SQLite a writer is alone anyway."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def entries(
    session: Session,
    *,
    repo: str | None = None,
    namespace: str | None = None,
    actor: str | None = None,
    action: str | None = None,
    before: int | None = None,
    limit: int = 100,
) -> list[AuditEntry]:
    """The newest entries that fit, newest first; `before` a number, for the next page."""
    query = select(AuditRow).order_by(AuditRow.number.desc()).limit(limit)
    for column, wanted in (
        (AuditRow.repo, repo),
        (AuditRow.namespace, namespace),
        (AuditRow.actor, actor),
        (AuditRow.action, action),
    ):
        if wanted is not None:
            query = query.where(column == wanted)
    if before is not None:
        query = query.where(AuditRow.number < before)
    return [_entry(row) for row in session.scalars(query)]


def verify(session: Session, *, expect: str | None = None) -> Chain:
    """Compute the whole chain again. Raises IntegrityError naming the first entry that is not as it was written, or where
    the chain lacks the hash `expect`, which an earlier call gave: its end was cut off, or all of it was written anew."""
    previous, number = START, 0
    seen = expect in (None, START)
    while rows := _after(session, number):
        for row in rows:
            number += 1
            if row.number != number:
                raise IntegrityError(
                    f"the audit log is broken: entry {number} is missing", hint=_hint(number)
                )
            if row.previous != previous:
                raise IntegrityError(
                    f"the audit log is broken at entry {number}: it does not follow entry {number - 1}",
                    hint=_hint(number),
                )
            if row.hash != _hash_of(row):
                raise IntegrityError(
                    f"the audit log is broken at entry {number}: it is not what was written",
                    hint=_hint(number),
                )
            previous = row.hash
            seen = seen or previous == expect
        session.expunge_all()
    if not seen:
        raise IntegrityError(
            f"the audit log has no entry with the hash {expect}: its end was cut off, or it was written anew",
            hint="Compare it with a backup.",
        )
    return Chain(number, previous)


def _after(session: Session, number: int) -> Sequence[AuditRow]:
    query = select(AuditRow).where(AuditRow.number > number).order_by(AuditRow.number).limit(_AT_ONCE)
    return session.scalars(query).all()


def _hint(number: int) -> str:
    return f"Whatever was recorded from entry {number} on cannot be relied on; compare it with a backup."


def _hash_of(row: AuditRow) -> str:
    document: dict[str, Any] = {
        "number": row.number,
        "time": row.time.astimezone(UTC).isoformat(timespec="microseconds"),
        "actor": row.actor,
        "token": row.token,
        "action": row.action,
        "namespace": row.namespace,
        "repo": row.repo,
        "detail": row.detail,
        "previous": row.previous,
    }
    return hashlib.sha256(rfc8785.dumps(document)).hexdigest()


def _entry(row: AuditRow) -> AuditEntry:
    return AuditEntry(
        row.number,
        row.time,
        row.actor,
        row.token,
        row.action,
        row.namespace,
        row.repo,
        row.detail,
        row.previous,
        row.hash,
    )
