"""Aliases: where they point, every move that they made, promotion and rollback."""

from __future__ import annotations

from fastapi import APIRouter

from adapthub.hub import aliases, promotion
from adapthub.hub.access import readable_repo, writable_repo
from adapthub.hub.lookup import require_version
from adapthub.hub.records import aliases_of, version_of
from adapthub.hub.reference import Reference, check_alias
from adapthub.hub.registry import Alias, Version
from adapthub.hub.server.dependencies import Revision, Target, TheCaller, TheServing
from adapthub.hub.server.said import Said
from adapthub.hub.storage.retrying import retried

router = APIRouter(prefix="/api/models/{namespace}/{name}/aliases", tags=["aliases"])


class Promotion(Said):
    """The revision that an alias shall point at."""

    revision: str


@router.get("")
def list_aliases(target: Target, serving: TheServing, caller: TheCaller) -> tuple[Alias, ...]:
    """The aliases by name, each with its moves, oldest first."""
    with serving.store.database.reading() as session:
        return aliases_of(readable_repo(session, caller, target))


@router.put("/{revision}")
@retried
def promote(
    target: Target, revision: Revision, body: Promotion, serving: TheServing, caller: TheCaller
) -> Version:
    """Point the alias at a version, if its gates let it."""
    alias = check_alias(revision)
    with serving.store.database.reading() as session:
        writable_repo(session, caller, target)
        wanted = Reference(None, target.namespace, target.name, body.revision)
        version = require_version(session, wanted)
        ahead = promotion.ahead_of(session, serving.store, version, alias)
    with (
        promotion.refusals_told(serving.store, target.full_name, actor=caller.actor),
        serving.store.database.writing() as session,
    ):
        writable_repo(session, caller, target)
        version = require_version(session, wanted)
        promotion.promote(session, ahead, version, alias, actor=caller.actor)
        return version_of(version)


@router.post("/{revision}/rollback")
@retried
def rollback(target: Target, revision: Revision, serving: TheServing, caller: TheCaller) -> Version:
    """Point the alias back at what it meant before the last promotion; no gate is asked."""
    alias = check_alias(revision)
    with serving.store.database.writing() as session:
        repo = writable_repo(session, caller, target)
        return version_of(aliases.rollback(session, repo, target.full_name, alias, actor=caller.actor))
