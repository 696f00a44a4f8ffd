"""Accounts and their tokens: who a request comes from. What they may do is in `access`.

    ah_3kd8f2ab_<43 characters>      32 random bytes behind a prefix that names the token and is no secret

A token is shown once; stored is its sha256. Every function runs inside a transaction of the database's.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from sqlalchemy import select
from sqlalchemy.orm import Session

from adapthub.adapters.errors import Conflict, InvalidSettings, NotFound, Unauthorized
from adapthub.adapters.suggest import did_you_mean
from adapthub.hub import audit
from adapthub.hub.audit import MACHINE, Actor
from adapthub.hub.namespaces import check_namespace
from adapthub.hub.reference import Reference
from adapthub.hub.storage.account_tables import AccountRow, MemberRow, TokenRow

Scope = Literal["read", "write", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
_TOKEN = re.compile(r"(ah_[a-z0-9]{8})_[A-Za-z0-9_-]{43}")
_PREFIX = re.compile(r"(?:ah_)?([a-z0-9]{8})")
_ALPHABET = string.ascii_lowercase + string.digits
_LONGEST = timedelta(days=36525)


@dataclass(frozen=True)
class Token:
    """A token without its secret. `state` is what it is now: "works", "expired" or "revoked"."""

    account: str
    prefix: str
    scope: Scope
    created: datetime
    expires: datetime | None
    revoked: datetime | None

    @property
    def state(self) -> str:
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= datetime.now(UTC) else "works"


def create_token(
    session: Session,
    name: str,
    scope: Scope,
    *,
    lifetime: timedelta | None = None,
    actor: Actor = MACHINE,
) -> tuple[Token, str]:
    """A new token of the account `name`, which is made if it is not there, and the token's text. Raises InvalidReference for
    a name that no namespace may have, InvalidSettings for a scope or lifetime that cannot be, Conflict for a name that an
    organisation has or a removed account had."""
    Reference(None, name, "any")
    if scope not in SCOPES:
        raise InvalidSettings(f"there is no scope {scope!r}", hint=f"Use one of {', '.join(SCOPES)}.")
    if lifetime is not None and not timedelta(0) < lifetime <= _LONGEST:
        raise InvalidSettings(f"a token cannot work for {lifetime}", hint="Give up to 100 years, or no end.")
    now = datetime.now(UTC)
    account = _find_or_make(session, name, now)
    text = _new_token()
    row = TokenRow(
        prefix=_prefix_of(text),
        hash=_hash_of(text),
        account=account,
        scope=scope,
        created=now,
        expires=None if lifetime is None else now + lifetime,
    )
    session.add(row)
    session.flush()
    token = _token(row)
    expires = None if row.expires is None else row.expires.isoformat()
    detail = {"account": name, "prefix": token.prefix, "scope": scope, "expires": expires}
    audit.record(session, actor, "token.created", namespace=name, **detail)
    return token, text


def list_tokens(session: Session, name: str | None = None) -> list[Token]:
    """All tokens, or those of one account, by account and age."""
    query = select(TokenRow).join(AccountRow)
    if name is not None:
        query = query.where(AccountRow.name == name)
    return [_token(row) for row in session.scalars(query.order_by(AccountRow.name, TokenRow.created))]


def revoke_token(session: Session, named: str, *, actor: Actor = MACHINE) -> Token:
    """End a token at once: the one with that prefix, or with that text. Idempotent. Raises NotFound."""
    match = _PREFIX.fullmatch(named)
    prefix = f"ah_{match[1]}" if match else _prefix_of(named)
    row = None if prefix is None else session.get(TokenRow, prefix)
    if row is None:
        known = session.scalars(select(TokenRow.prefix)).all()
        # Not `named`: it may be a token.
        raise NotFound(
            f"there is no token {prefix or 'of that name'}", hint=did_you_mean(prefix or "", known)
        )
    if row.revoked is None:
        _revoke(session, row, actor)
    return _token(row)


def find_token(session: Session, text: str) -> Token:
    """The token that `text` is. Raises Unauthorized where it is none of ours, expired or revoked."""
    prefix = _prefix_of(text)
    row = None if prefix is None else session.get(TokenRow, prefix)
    if row is None or not secrets.compare_digest(row.hash, _hash_of(text)):
        raise Unauthorized("the token is none of this hub's", hint="Make one with adapt hub token create.")
    return token_of_prefix(session, row.prefix)


def token_of_prefix(session: Session, prefix: str) -> Token:
    """The token that has this prefix, which proves nothing by itself. Raises Unauthorized where it is gone, expired or
    revoked."""
    row = session.get(TokenRow, prefix)
    if row is None:
        raise Unauthorized(f"there is no token {prefix}")
    token = _token(row)
    if row.account.removed is not None:
        raise Unauthorized(f"the account {token.account} was removed", hint="Ask whoever runs this hub.")
    if token.state != "works":
        raise Unauthorized(
            f"the token {token.prefix} is {token.state}", hint="Make another with adapt hub token create."
        )
    return token


def remove_account(session: Session, name: str, *, actor: Actor = MACHINE) -> None:
    """Let nobody act as `name` any more: its tokens end, its roles go, and the name is not given again, so what lies in its
    namespace is nobody else's. Raises NotFound, and Conflict where it is the last admin of an organisation."""
    account = require_account(session, name)
    audit.lock(session)  # of two admins who are removed at once, the second is the last
    for member in session.scalars(select(MemberRow).where(MemberRow.account_id == account.id)).all():
        check_not_last(session, member)
        session.delete(member)
        detail = {"account": name, "role": None}
        session.flush()
        audit.record(session, actor, "member", namespace=member.namespace, **detail)
    for token in account.tokens:
        if token.revoked is None:
            _revoke(session, token, actor)
    account.removed = datetime.now(UTC)
    session.flush()
    audit.record(session, actor, "account.removed", namespace=name, account=name)


def require_account(session: Session, name: str) -> AccountRow:
    """The account of that name. Raises NotFound where there is none, or none any more."""
    row = session.scalar(select(AccountRow).where(AccountRow.name == name))
    if row is None or row.removed is not None:
        known = session.scalars(select(AccountRow.name).where(AccountRow.removed.is_(None)).limit(1000)).all()
        raise NotFound(
            f"there is no account {name[:100]!r}",
            hint=did_you_mean(name, known) or "adapt hub token create NAME makes one.",
        )
    return row


def check_not_last(session: Session, member: MemberRow) -> None:
    """Raises Conflict where an organisation would have no admin without this member. A namespace called as an account has
    one in it."""
    if member.role != "admin" or is_account(session, member.namespace):
        return
    others = select(MemberRow.account_id).where(
        MemberRow.namespace == member.namespace,
        MemberRow.role == "admin",
        MemberRow.account_id != member.account_id,
    )
    if session.scalar(others.limit(1)) is None:
        name = session.scalar(select(AccountRow.name).where(AccountRow.id == member.account_id))
        raise Conflict(
            f"{name} is the last admin of {member.namespace}", hint="Make another member admin first."
        )


def is_account(session: Session, name: str) -> bool:
    """Whether the namespace `name` is an account's own."""
    return session.scalar(select(AccountRow.id).where(AccountRow.name == name)) is not None


def any_token(session: Session) -> bool:
    """Whether a token was ever made: without one a hub is its own machine's alone."""
    return session.scalar(select(TokenRow.prefix).limit(1)) is not None


def _find_or_make(session: Session, name: str, now: datetime) -> AccountRow:
    account = session.scalar(select(AccountRow).where(AccountRow.name == name))
    if account is None:
        check_namespace(name)
        audit.lock(session)  # as an organisation does: one of the two has the name
        if session.scalar(select(MemberRow.namespace).where(MemberRow.namespace == name).limit(1)):
            raise Conflict(f"{name} is an organisation", hint="Choose another name for the account.")
        account = AccountRow(name=name, created=now)
        session.add(account)
    elif account.removed is not None:
        raise Conflict(f"the account {name} was removed", hint="Choose another name.")
    return account


def _revoke(session: Session, row: TokenRow, actor: Actor) -> None:
    row.revoked = datetime.now(UTC)
    session.flush()
    audit.record(
        session,
        actor,
        "token.revoked",
        namespace=row.account.name,
        account=row.account.name,
        prefix=row.prefix,
    )


def _new_token() -> str:
    name = "".join(secrets.choice(_ALPHABET) for _ in range(8))
    return f"ah_{name}_{secrets.token_urlsafe(32)}"


def _prefix_of(text: str) -> str | None:
    match = _TOKEN.fullmatch(text)
    return match[1] if match else None


def _hash_of(text: str) -> str:
    # A slow hash is for passwords, which can be guessed: nobody guesses 256 random bits.
    return hashlib.sha256(text.encode()).hexdigest()


def _token(row: TokenRow) -> Token:
    return Token(row.account.name, row.prefix, row.scope, row.created, row.expires, row.revoked)  # type: ignore[arg-type]
