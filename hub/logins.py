"""Logins of a device that has no browser (RFC 8628): it shows a code, somebody who has a token allows it, it gets a token.

    device ──> asks for a code ──> polls with its secret ──> once allowed: a token of its own, handed out once
    person ──> types the code, with a token that they have or on the hub's machine ──> allows or denies it

The secret is 32 random bytes, of which only a hash is kept; the code alone gets nobody anything. The device's token works no
longer than the one that allowed it, and is made while that one works. Every function runs inside a transaction of the
database's.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from adapthub.adapters.errors import InvalidSettings, NotFound, Unauthorized
from adapthub.hub import audit
from adapthub.hub.accounts import SCOPES, Scope, create_token, is_account, token_of_prefix
from adapthub.hub.audit import MACHINE, Actor
from adapthub.hub.namespaces import check_namespace
from adapthub.hub.storage.upkeep_tables import LoginRow

LIFETIME = timedelta(minutes=15)
_MOST_WAITING = 1000
_MOST_OF_ONE = 20  # that one address has; whoever asks for more ends their own oldest
_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"  # no vowels: codes are no words; 20^8 of them, for a quarter of an hour
_CODE = re.compile(rf"([{_LETTERS}]{{4}})-?([{_LETTERS}]{{4}})")


@dataclass(frozen=True)
class Waiting:
    """A login that waits: the `secret` that its device polls with, the `code` that people type."""

    secret: str
    code: str


class Outcome(Enum):
    """What a device is told that polls, as OAuth names it."""

    PENDING = "authorization_pending"
    DENIED = "access_denied"
    EXPIRED = "expired_token"


def begin(session: Session, address: str) -> Waiting:
    """A login that waits, of a client at `address`. Nobody is refused: where too many wait, the oldest of the address that
    has most of them ends, so that whoever asks again and again ends their own."""
    now = datetime.now(UTC)
    session.execute(delete(LoginRow).where(LoginRow.expires < now))
    mine = select(LoginRow.hash).where(LoginRow.address == address).order_by(LoginRow.expires.desc())
    session.execute(delete(LoginRow).where(LoginRow.hash.in_(mine.offset(_MOST_OF_ONE - 1))))
    waiting = session.scalar(select(func.count()).select_from(LoginRow)) or 0
    if waiting >= _MOST_WAITING:
        crowd = select(LoginRow.address).group_by(LoginRow.address)
        most = session.scalar(crowd.order_by(func.count().desc(), func.min(LoginRow.expires)).limit(1))
        theirs = select(LoginRow.hash).where(LoginRow.address == most).order_by(LoginRow.expires)
        session.execute(delete(LoginRow).where(LoginRow.hash.in_(theirs.limit(waiting - _MOST_WAITING + 1))))
    secret = secrets.token_urlsafe(32)
    letters = "".join(secrets.choice(_LETTERS) for _ in range(8))
    code = f"{letters[:4]}-{letters[4:]}"
    row = LoginRow(hash=_hash_of(secret), code=code, expires=now + LIFETIME, denied=False, address=address)
    session.add(row)
    return Waiting(secret, code)


def allow(session: Session, code: str, account: str, scope: Scope, *, actor: Actor = MACHINE) -> None:
    """Let the device that shows `code` have a token of `account`. Raises NotFound where none shows it, InvalidReference for
    a name that no account may have, InvalidSettings for a scope that is none."""
    if not is_account(session, account):
        check_namespace(account)
    if scope not in SCOPES:
        raise InvalidSettings(f"there is no scope {scope!r}", hint=f"Use one of {', '.join(SCOPES)}.")
    row = _find(session, code)
    row.account, row.scope, row.approver = account, scope, actor.token
    session.flush()
    audit.record(session, actor, "login.allowed", namespace=account, account=account, scope=scope)


def deny(session: Session, code: str, *, actor: Actor = MACHINE) -> None:
    """Let the device that shows `code` hear that it may not. Raises NotFound where none shows it."""
    row = _find(session, code)
    row.denied = True
    session.flush()
    audit.record(session, actor, "login.denied", namespace=actor.account, address=row.address)


def waiting_for(session: Session, secret: str) -> Outcome | None:
    """Why there is no token for the device that has this secret; None where there is one to `take`. Writes nothing."""
    return _outcome(session.get(LoginRow, _hash_of(secret)))


def take(session: Session, secret: str) -> str | Outcome:
    """The token of the device that has this secret, once; or why there is none."""
    row = session.get(LoginRow, _hash_of(secret), with_for_update=True)
    outcome = _outcome(row)
    if row is None or outcome is not None:
        return outcome or Outcome.EXPIRED
    session.delete(row)
    lifetime = None
    if row.approver is not None:
        try:
            approver = token_of_prefix(session, row.approver)
        except Unauthorized:
            return Outcome.DENIED
        lifetime = None if approver.expires is None else approver.expires - datetime.now(UTC)
    actor = Actor(None if row.approver is None else row.account, row.approver)
    return create_token(session, row.account, row.scope, lifetime=lifetime, actor=actor)[1]  # type: ignore[arg-type]


def _outcome(row: LoginRow | None) -> Outcome | None:
    if row is None or row.expires < datetime.now(UTC):
        return Outcome.EXPIRED
    if row.denied:
        return Outcome.DENIED
    return Outcome.PENDING if row.account is None else None


def _find(session: Session, code: str) -> LoginRow:
    match = _CODE.fullmatch(code.strip().upper())
    row = None
    if match is not None:
        row = session.scalar(
            select(LoginRow).where(
                LoginRow.code == f"{match[1]}-{match[2]}",
                LoginRow.expires > datetime.now(UTC),
                LoginRow.account.is_(None),
                LoginRow.denied.is_(False),
            )
        )
    if row is None:
        raise NotFound(
            f"no login waits with the code {code[:20]!r}", hint="Codes are good for 15 minutes: log in again."
        )
    return row


def _hash_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
