"""Repositories made, deleted, moved, and their settings."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from sqlalchemy.orm import Session

from adapthub.adapters.errors import Conflict, InvalidSettings
from adapthub.hub import commits, quotas, repos
from adapthub.hub.access import Caller, require_role, require_write, writable_repo
from adapthub.hub.events import happened
from adapthub.hub.gates import check_refs, is_guarded
from adapthub.hub.inspection import card_of
from adapthub.hub.reference import Reference
from adapthub.hub.revisions import head_of
from adapthub.hub.server.dependencies import Target, TheCaller, TheServing, origin
from adapthub.hub.server.errors import error_body, message_headers
from adapthub.hub.server.said import Said
from adapthub.hub.server.serving import Serving
from adapthub.hub.storage.retrying import retried
from adapthub.hub.storage.tables import RepoRow
from adapthub.hub.trees import read_tree

router = APIRouter(tags=["repositories"])

Visibility = Literal["public", "private"]


class Named(Said):
    """A repository by its name alone: without an organization it is the caller's own."""

    name: str
    organization: str | None = None
    type: str | None = None

    def target(self, caller: Caller) -> Reference:
        """Raises InvalidReference, InvalidSettings."""
        _check_type(self.type)
        if "/" in self.name:
            return Reference(None, *self.name.split("/", 1))
        namespace = self.organization or caller.account
        if namespace is None:
            raise InvalidSettings(
                f"{self.name!r} names no namespace", hint="Write namespace/name, or log in."
            )
        return Reference(None, namespace, self.name)


class Creation(Named):
    """A repository to make."""

    visibility: Visibility | None = None
    private: bool | None = None


class Moving(Said):
    """A repository's name and the one that it shall have."""

    fromRepo: str
    toRepo: str
    type: str | None = None


class Change(Said):
    """Settings to change; those that are not given stay."""

    visibility: Visibility | None = None
    private: bool | None = None
    gated: Literal["auto", "manual", False] | None = None


@router.post("/api/repos/create", response_model=None)
@retried
def create(body: Creation, request: Request, serving: TheServing, caller: TheCaller) -> Response:
    """Make a repository, empty but for a first commit."""
    target = body.target(caller)
    url = f"{origin(request)}/{target.full_name}"
    private = body.private if body.visibility is None else body.visibility == "private"
    try:
        with serving.store.database.writing() as session:
            require_write(session, caller, target.namespace)
            repo = repos.make(session, target, repos.Settings(private=bool(private)), actor=caller.actor)
            commits.begin(session, repo, author=caller.account)
    except Conflict as error:
        # Clients that do not mind read on from here.
        return JSONResponse({**error_body(str(error)), "url": url}, 409, message_headers(str(error)))
    return JSONResponse({"url": url, "name": target.full_name, "id": target.full_name})


@router.delete("/api/repos/delete")
@retried
def delete(body: Named, serving: TheServing, caller: TheCaller) -> Response:
    """Delete a repository with all its history."""
    with serving.store.database.writing() as session:
        repo = _unguarded_repo(session, caller, body.target(caller))
        repos.remove(session, repo, actor=caller.actor)
    return Response()


@router.post("/api/repos/move")
@retried
def move(body: Moving, serving: TheServing, caller: TheCaller) -> Response:
    """Give a repository another name."""
    _check_type(body.type)
    source, target = Reference.parse(body.fromRepo), Reference.parse(body.toRepo)
    card = _card(serving, caller, source)
    with serving.store.database.writing() as session:
        repo = _unguarded_repo(session, caller, source)
        require_write(session, caller, target.namespace)
        if is_guarded(session, target.namespace, target.name):
            require_role(session, caller, target.namespace, "admin")  # no gate was asked where it comes from
            check_refs(session, repo, target)
        quotas.check_move(session, repo, target.namespace)
        repos.move(session, repo, target, card=card, actor=caller.actor)
    return Response()


@router.put("/api/models/{namespace}/{name}/settings")
@retried
def settings(body: Change, target: Target, serving: TheServing, caller: TheCaller) -> dict[str, Any]:
    """Change who may read a repository."""
    with serving.store.database.writing() as session:
        repo = repos.lock(session, writable_repo(session, caller, target))
        private = body.private if body.visibility is None else body.visibility == "private"
        if private is not None:
            repo.private = private
        if body.gated is not None:
            repo.gated = body.gated or None
        happened(
            session,
            caller.actor,
            "repo.settings",
            repo=repo.full_name,
            private=repo.private,
            gated=repo.gated,
        )
        return {"private": repo.private, "gated": repo.gated or False}


def _unguarded_repo(session: Session, caller: Caller, target: Reference) -> RepoRow:
    """A repository that the caller may move or delete, locked: where gates hold, only an admin, for its aliases go along."""
    repo = repos.lock(session, writable_repo(session, caller, target))
    if is_guarded(session, repo.namespace, repo.name):
        require_role(session, caller, repo.namespace, "admin")
    return repo


def _card(serving: Serving, caller: Caller, source: Reference) -> str:
    with serving.store.database.reading() as session:
        repo = writable_repo(session, caller, source)
        head = head_of(session, repo)
        tree = {} if head is None else read_tree(session, head.id)
    return card_of(tree, serving.store.read)


def _check_type(type_: str | None) -> None:
    if type_ not in (None, "model"):
        raise InvalidSettings(
            f"this hub has no repositories of the type {type_!r}", hint="Adapters are models."
        )
