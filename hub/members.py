"""Members of namespaces: who has which role in what is not their own, and organisations, which are namespaces with members.

An organisation has an admin at any moment: the first member is one, and the last one stays. Roles: read sees what is
private, write changes it, admin also sets rules, members and webhooks. Every function runs inside a transaction of the
database's.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from adapthub.adapters.errors import Conflict, InvalidSettings, NotFound
from adapthub.adapters.suggest import did_you_mean
from adapthub.hub import audit
from adapthub.hub.accounts import SCOPES, Scope, check_not_last, is_account, require_account
from adapthub.hub.audit import MACHINE, Actor
from adapthub.hub.namespaces import check_namespace
from adapthub.hub.reference import Reference
from adapthub.hub.room import check_room
from adapthub.hub.storage.account_tables import AccountRow, MemberRow
from adapthub.hub.storage.tables import RepoRow


@dataclass(frozen=True)
class Member:
    """What an account may do in a namespace."""

    namespace: str
    account: str
    role: Scope


def create_organisation(session: Session, name: str, admin: str, *, actor: Actor = MACHINE) -> Member:
    """Make the namespace `name` an organisation whose admin is the account `admin`. Raises InvalidReference for a name that
    no namespace may have, Conflict where it is one already or an account's, NotFound for an account that is not there."""
    check_namespace(name)
    audit.lock(session)
    if is_account(session, name):
        raise Conflict(f"{name} is an account", hint="Choose another name for the organisation.")
    if is_organisation(session, name):
        raise Conflict(f"there is an organisation {name} already", hint="Choose another name.")
    return set_member(session, name, admin, "admin", actor=actor)


def set_member(
    session: Session, namespace: str, account: str, role: Scope, *, actor: Actor = MACHINE
) -> Member:
    """Give `account` a role in a namespace, in place of one that it has. Raises InvalidReference, InvalidSettings, NotFound,
    and Conflict where an organisation would be left without an admin, or has too many members."""
    Reference(None, namespace, "any")
    if role not in SCOPES:
        raise InvalidSettings(f"there is no role {role!r}", hint=f"Use one of {', '.join(SCOPES)}.")
    audit.lock(session)
    found = require_account(session, account)
    if found.name == namespace:
        raise Conflict(f"{namespace} is {account}'s own namespace", hint="They may do everything in it.")
    row = session.get(MemberRow, (namespace, found.id))
    if row is None:
        new = not is_account(session, namespace) and not is_organisation(session, namespace)
        if new:
            check_namespace(namespace)
        if new and role != "admin":
            raise Conflict(
                f"{namespace} has no members yet, and the first must be an admin",
                hint=f"Make it one: adapt hub org create {namespace} --admin NAME.",
            )
        check_room(session, MemberRow.namespace, namespace, "members")
        session.add(MemberRow(namespace=namespace, account_id=found.id, role=role))
    else:
        if role != "admin":
            check_not_last(session, row)
        row.role = role
    session.flush()
    audit.record(session, actor, "member", namespace=namespace, account=account, role=role)
    return Member(namespace, account, role)


def remove_member(session: Session, namespace: str, account: str, *, actor: Actor = MACHINE) -> Member:
    """Take an account's role in a namespace away: at once, whatever tokens it has. Raises NotFound, and Conflict where it is
    the last admin of an organisation."""
    audit.lock(session)
    row = session.scalar(
        select(MemberRow)
        .join(AccountRow, AccountRow.id == MemberRow.account_id)
        .where(MemberRow.namespace == namespace, AccountRow.name == account)
    )
    if row is None:
        names = [member.account for member in list_members(session, namespace)]
        raise NotFound(f"{account} is no member of {namespace}", hint=did_you_mean(account, names))
    check_not_last(session, row)
    member = Member(namespace, account, row.role)  # type: ignore[arg-type]
    session.delete(row)
    session.flush()
    audit.record(session, actor, "member", namespace=namespace, account=account, role=None)
    return member


def list_members(session: Session, namespace: str | None = None) -> list[Member]:
    """All members, or those of one namespace, by namespace and name."""
    query = (
        select(MemberRow.namespace, AccountRow.name, MemberRow.role)
        .join(AccountRow, AccountRow.id == MemberRow.account_id)
        .order_by(MemberRow.namespace, AccountRow.name)
    )
    if namespace is not None:
        query = query.where(MemberRow.namespace == namespace)
    found = session.execute(query)
    return [Member(where, name, role) for where, name, role in found]  # type: ignore[arg-type]


def is_organisation(session: Session, name: str) -> bool:
    """Whether a namespace has members of its own."""
    found = session.scalar(select(MemberRow.namespace).where(MemberRow.namespace == name).limit(1))
    return found is not None and not is_account(session, name)


def has_repositories(session: Session, namespace: str) -> bool:
    """Whether something lies in a namespace already."""
    return session.scalar(select(RepoRow.id).where(RepoRow.namespace == namespace).limit(1)) is not None
