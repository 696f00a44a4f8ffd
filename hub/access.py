"""Who may do what: callers, namespaces, repositories.

A namespace that is called as an account is that account's. One with members is theirs, by role. Any other is shared:
whoever has a token may read it, and write to it if the token's scope says so; its rules are for tokens of the scope admin.
What a caller may not read is, for them, not there. Until a token is made everybody reads everything, for nobody but this
machine is answered (server).
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, exists, or_, select, true
from sqlalchemy.orm import Session

from adapthub.adapters.errors import AdapterNotFound, Forbidden, Unauthorized
from adapthub.hub.accounts import SCOPES, Scope, is_account, token_of_prefix
from adapthub.hub.audit import Actor
from adapthub.hub.lookup import find_repo, require_repo
from adapthub.hub.reference import Reference
from adapthub.hub.storage.account_tables import AccountRow, MemberRow
from adapthub.hub.storage.tables import RepoRow


@dataclass(frozen=True)
class Caller:
    """Who asks: the `account` and `scope` of their token, None without one; `token`: its prefix. `alone`: there are no
    tokens yet."""

    account: str | None = None
    scope: Scope = "read"
    token: str | None = None
    alone: bool = False

    @property
    def actor(self) -> Actor:
        """As the audit log knows them."""
        return Actor(self.account, self.token)


class Gated(Forbidden):
    """A repository that is shown, and whose files are for those who were let in."""


def readable_repo(session: Session, caller: Caller, reference: Reference) -> RepoRow:
    """The repository, if the caller may read it. Raises AdapterNotFound where it is not there for them."""
    repo = find_repo(session, reference)
    if repo is None or (repo.private and not _may(session, caller, repo.namespace, "read")):
        if caller.alone or caller.scope == "admin":
            return require_repo(session, reference, near=True)
        raise AdapterNotFound(f"there is no repository {reference.full_name} in this hub, or not for you")
    return repo


def may_have_files(session: Session, caller: Caller, repo: RepoRow) -> bool:
    """Whether the files of a repository that the caller sees are for them: `auto` lets in whoever has a token, `manual` who
    has a role in its namespace."""
    if repo.gated is None or _may(session, caller, repo.namespace, "read"):
        return True
    return repo.gated == "auto" and caller.account is not None


def check_gate(session: Session, caller: Caller, repo: RepoRow) -> None:
    """Raises Gated where the files of a repository that the caller sees are not for them."""
    if not may_have_files(session, caller, repo):
        raise Gated(f"{repo.full_name} is gated", hint=f"Ask {repo.namespace} for access, and log in.")


def writable_repo(session: Session, caller: Caller, reference: Reference) -> RepoRow:
    """The repository, if the caller may write to it. Raises AdapterNotFound, Unauthorized, Forbidden."""
    repo = readable_repo(session, caller, reference)
    require_write(session, caller, reference.namespace)
    return repo


def require_write(session: Session, caller: Caller, namespace: str) -> None:
    """Raises Unauthorized without a token, Forbidden where the caller may not write to the namespace."""
    require_role(session, caller, namespace, "write")


def caller_of(session: Session, token: str) -> Caller:
    """Who asks with the token of that prefix, as it is now. Raises Unauthorized where it works no longer."""
    found = token_of_prefix(session, token)
    return Caller(found.account, found.scope, found.prefix)


def check_still(session: Session, token: str | None, namespace: str) -> None:
    """Raises Unauthorized or Forbidden where the token of that prefix works no longer, or may not write to the namespace any
    more. Asked in the transaction that writes what a body brought, which may have taken long to come; None is the machine
    itself."""
    if token is not None:
        require_write(session, caller_of(session, token), namespace)


def require_role(session: Session, caller: Caller, namespace: str, role: Scope) -> None:
    """Raises Unauthorized without a token, Forbidden where the caller has not got that `role` in the namespace, or a token
    that only reads."""
    if caller.account is None:
        raise Unauthorized(
            "this needs a token", hint="Make one with adapt hub token create, and log in with hf auth login."
        )
    if role != "read":
        require_write_scope(caller)
    if not _may(session, caller, namespace, role):
        what = {"read": "read", "write": "write to", "admin": "administer"}[role]
        raise Forbidden(f"{caller.account} may not {what} {namespace}/", hint="Ask one of its admins.")


def require_write_scope(caller: Caller) -> None:
    """Raises Forbidden for a token that only reads, whatever its account may do."""
    if not _covers(caller.scope, "write"):
        raise Forbidden(
            f"the token {caller.token} has the scope {caller.scope}", hint="Use one of the scope write."
        )


def require_admin(caller: Caller) -> None:
    """Raises Unauthorized without a token, Forbidden for a scope that is not admin."""
    if caller.account is None:
        raise Unauthorized("this needs a token of the scope admin")
    if caller.scope != "admin":
        raise Forbidden(f"the token {caller.token} has the scope {caller.scope}, and this needs admin")


def visible(caller: Caller) -> ColumnElement[bool]:
    """The condition on `repos` that lists show a caller."""
    if caller.alone or caller.scope == "admin":
        return true()
    if caller.account is None:
        return RepoRow.private.is_(False)
    own = RepoRow.namespace == caller.account
    member = exists().where(
        MemberRow.namespace == RepoRow.namespace,
        MemberRow.account_id == AccountRow.id,
        AccountRow.name == caller.account,
    )
    somebodys = or_(
        exists().where(MemberRow.namespace == RepoRow.namespace),
        exists().where(AccountRow.name == RepoRow.namespace),
    )
    return or_(RepoRow.private.is_(False), own, member, ~somebodys)


def has_role(session: Session, account: str, namespace: str, role: Scope) -> bool:
    """Whether an account that is still there has `role` in a namespace now, without a token of the scope admin."""
    there = session.scalar(
        select(AccountRow.id).where(AccountRow.name == account, AccountRow.removed.is_(None))
    )
    return there is not None and _may(session, Caller(account, "write"), namespace, role)


def _may(session: Session, caller: Caller, namespace: str, role: Scope) -> bool:
    """Whether the caller has `role` in a namespace, whatever their token's scope."""
    if caller.scope == "admin" or (caller.alone and role == "read"):
        return True
    if caller.account is None:
        return False
    if namespace == caller.account:
        return True
    held = session.scalar(
        select(MemberRow.role)
        .join(AccountRow, AccountRow.id == MemberRow.account_id)
        .where(MemberRow.namespace == namespace, AccountRow.name == caller.account)
    )
    if held is not None:
        return _covers(held, role)
    if session.scalar(select(MemberRow.namespace).where(MemberRow.namespace == namespace).limit(1)):
        return False
    # Whoever may write to what is nobody's in particular may not make it theirs.
    return role != "admin" and not is_account(session, namespace)


def _covers(held: str, wanted: str) -> bool:
    return SCOPES.index(held) >= SCOPES.index(wanted)
