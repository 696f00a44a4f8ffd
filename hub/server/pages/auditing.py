"""The audit log for admins of the hub: filtered, newest first, with the head of its chain.

The chain is computed again only where somebody asks for it, and only as far as that takes a moment: of a longer log the page
says which command does it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.orm import Session

from adapthub.adapters.errors import IntegrityError
from adapthub.hub import audit
from adapthub.hub.access import require_admin
from adapthub.hub.audit import AuditEntry
from adapthub.hub.server.dependencies import Text, TheServing
from adapthub.hub.server.pages import links
from adapthub.hub.server.pages.rendering import page
from adapthub.hub.server.pages.visitors import TheVisitor

router = APIRouter(include_in_schema=False)

PAGE = 50
MOST_VERIFIED = 10_000
"""Entries of a chain that is computed while somebody waits: about a second."""


@dataclass(frozen=True)
class Verified:
    """What computing the chain came to: `broken` says where it is, None where it is whole."""

    entries: int
    broken: str | None


@router.api_route("/audit", methods=["GET", "HEAD"])
def audit_log(
    request: Request,
    serving: TheServing,
    visitor: TheVisitor,
    repo: Text = "",
    namespace: Text = "",
    actor: Text = "",
    action: Text = "",
    before: Annotated[int | None, Query(ge=1, lt=2**62)] = None,
    verify: bool = False,
) -> Response:
    """The newest entries that fit. Raises Unauthorized, Forbidden for who is no admin of the hub."""
    require_admin(visitor)
    filters = {
        "repo": repo.strip(),
        "namespace": namespace.strip(),
        "actor": actor.strip(),
        "action": action.strip(),
    }
    wanted = {name: value or None for name, value in filters.items()}
    with serving.store.database.reading() as session:
        found = audit.entries(session, **wanted, before=before, limit=PAGE + 1)
        newest = audit.entries(session, limit=1)
        head = newest[0] if newest else None
        may_verify = head is not None and head.number <= MOST_VERIFIED
        verified = _verified(session, head) if verify and may_verify and head is not None else None
    shown = found[:PAGE]
    return page(
        request,
        "audit.html",
        visitor,
        filters=filters,
        entries=shown,
        head=head,
        may_verify=may_verify,
        verified=verified,
        next=links.audit(**filters, before=shown[-1].number) if len(found) > PAGE else None,
        first=links.audit(**filters) if before is not None else None,
    )


def _verified(session: Session, head: AuditEntry) -> Verified:
    try:
        return Verified(audit.verify(session).entries, None)
    except IntegrityError as error:
        return Verified(head.number, str(error))
