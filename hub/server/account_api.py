"""Who the caller is, what they may do, and whether a card's metadata is in order."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy import select

from adapthub.adapters.errors import AdmissionError, Unauthorized
from adapthub.hub.access import check_gate, readable_repo, writable_repo
from adapthub.hub.cards import card_metadata
from adapthub.hub.server.dependencies import Target, TheCaller, TheServing
from adapthub.hub.server.said import Said
from adapthub.hub.storage.account_tables import AccountRow, MemberRow

router = APIRouter(prefix="/api", tags=["accounts"])


class Card(Said):
    """The text of README.md."""

    content: str
    repoType: str | None = None


@router.get("/whoami-v2")
def whoami(serving: TheServing, caller: TheCaller) -> dict[str, Any]:
    """The account of the token."""
    if caller.account is None:
        raise Unauthorized("nobody is logged in", hint="Log in with hf auth login.")
    with serving.store.database.reading() as session:
        members = session.execute(
            select(MemberRow.namespace, MemberRow.role)
            .join(AccountRow, AccountRow.id == MemberRow.account_id)
            .where(AccountRow.name == caller.account)
            .order_by(MemberRow.namespace)
        ).all()
    return {
        "type": "user",
        "id": caller.account,
        "name": caller.account,
        "fullname": caller.account,
        "isPro": False,
        "orgs": [{"type": "org", "name": name, "roleInOrg": role} for name, role in members],
        "auth": {
            "type": "access_token",
            "accessToken": {"displayName": caller.token, "role": caller.scope},
        },
    }


@router.get("/models/{namespace}/{name}/auth-check")
def may_read(target: Target, serving: TheServing, caller: TheCaller) -> Response:
    """Whether the caller may read the files of a repository."""
    with serving.store.database.reading() as session:
        check_gate(session, caller, readable_repo(session, caller, target))
    return Response()


@router.get("/models/{namespace}/{name}/auth-check/write")
def may_write(target: Target, serving: TheServing, caller: TheCaller) -> Response:
    """Whether the caller may write to a repository."""
    with serving.store.database.reading() as session:
        writable_repo(session, caller, target)
    return Response()


@router.post("/validate-yaml")
def validate(body: Card) -> dict[str, Any]:
    """What is wrong with the metadata of a card."""
    try:
        card_metadata(body.content)
    except AdmissionError as error:
        return {"errors": [{"message": str(error)}], "warnings": []}
    return {"errors": [], "warnings": []}
