"""Logins of a device that has no browser (RFC 8628): it shows a code, somebody who has a token allows it, it gets a token.

    device ──> asks for a code ──> polls with its secret ──> once allowed: a token of its own, handed out once
    person ──> types the code, with a token that they have or on the hub's machine ──> allows or denies it

The secret is 32 random bytes, of which only a hash is kept; the code alone gets nobody anything. Every function runs
inside a transaction of the database's.
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

from adapthub.adapters.errors import InvalidSettings, NotFound, RateLimited
from adapthub.hub.accounts import SCOPES, Scope, create_token
from adapthub.hub.reference import Reference
from adapthub.hub.storage.upkeep_tables import LoginRow

LIFETIME = timedelta(minutes=15)
_MOST_WAITING = 1000
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


def begin(session: Session) -> Waiting:
    """A login that waits. Raises RateLimited where too many do."""
    now = datetime.now(UTC)
    session.execute(delete(LoginRow).where(LoginRow.expires < now - LIFETIME))
    waiting = session.scalar(select(func.count()).select_from(LoginRow).where(LoginRow.expires > now)) or 0
    if waiting >= _MOST_WAITING:
        raise RateLimited("too many logins wait to be allowed", retry_after=60)
    secret = secrets.token_urlsafe(32)
    letters = "".join(secrets.choice(_LETTERS) for _ in range(8))
    code = f"{letters[:4]}-{letters[4:]}"
    session.add(LoginRow(hash=_hash_of(secret), code=code, expires=now + LIFETIME, denied=False))
    return Waiting(secret, code)


def allow(session: Session, code: str, account: str, scope: Scope) -> None:
    """Let the device that shows `code` have a token of `account`. Raises NotFound where none shows it, InvalidReference for
    a name that no account may have, InvalidSettings for a scope that is none."""
    Reference(None, account, "any")
    if scope not in SCOPES:
        raise InvalidSettings(f"there is no scope {scope!r}", hint=f"Use one of {', '.join(SCOPES)}.")
    row = _find(session, code)
    row.account, row.scope = account, scope


def deny(session: Session, code: str) -> None:
    """Let the device that shows `code` hear that it may not. Raises NotFound where none shows it."""
    _find(session, code).denied = True


def poll(session: Session, secret: str) -> str | Outcome:
    """The token of the device that has this secret, once; or why there is none."""
    row = session.get(LoginRow, _hash_of(secret), with_for_update=True)
    if row is None or row.expires < datetime.now(UTC):
        return Outcome.EXPIRED
    if row.denied:
        session.delete(row)
        return Outcome.DENIED
    if row.account is None:
        return Outcome.PENDING
    _, text = create_token(session, row.account, row.scope)  # type: ignore[arg-type]
    session.delete(row)
    return text


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
