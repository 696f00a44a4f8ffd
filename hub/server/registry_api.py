"""The hub as our own client reads it: what a `Registry` answers, as JSON. Hugging Face's clients never ask for it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from sqlalchemy.orm import Session

from adapthub.adapters.errors import AdapterNotFound
from adapthub.hub.access import Caller, may_have_files, readable_repo
from adapthub.hub.details import read_details
from adapthub.hub.lookup import require_version
from adapthub.hub.records import files_of, version_of
from adapthub.hub.reference import Reference
from adapthub.hub.registry import Details, StoredFile, Version
from adapthub.hub.server.dependencies import Revision, Target, TheCaller, TheServing
from adapthub.hub.storage.tables import VersionRow
from adapthub.hub.wire import PROTOCOL

router = APIRouter(tags=["registry"])


@router.get("/api/adapthub")
def hello() -> dict[str, Any]:
    """That this is a hub of AdaptHub, and which of its own interfaces it has."""
    return {"hub": "adapthub", "protocol": PROTOCOL}


@router.get("/api/models/{namespace}/{name}/available")
def available(target: Target, serving: TheServing, caller: TheCaller) -> bool:
    """Whether the caller sees nothing of this name. What is not for them is as if it were not there."""
    with serving.store.database.reading() as session:
        try:
            readable_repo(session, caller, target)
        except AdapterNotFound:
            return True
        return False


@router.get("/api/models/{namespace}/{name}/versions/{revision}")
def version(target: Target, revision: Revision, serving: TheServing, caller: TheCaller) -> Version:
    """The version that a revision means now."""
    with serving.store.database.reading() as session:
        return version_of(readable_version(session, caller, target, revision))


@router.get("/api/models/{namespace}/{name}/versions/{revision}/files")
def files(
    target: Target, revision: Revision, serving: TheServing, caller: TheCaller
) -> tuple[StoredFile, ...]:
    """The files that the digest of a version is over, by path, for whoever brings them one by one."""
    with serving.store.database.reading() as session:
        return files_of(readable_version(session, caller, target, revision))


@router.get("/api/models/{namespace}/{name}/versions/{revision}/details")
def details(target: Target, revision: Revision, serving: TheServing, caller: TheCaller) -> Details:
    """Everything about the version that a revision means now; of a gated one no more than lists say."""
    with serving.store.database.reading() as session:
        row = readable_version(session, caller, target, revision)
        let_in = may_have_files(session, caller, row.repo)
        return read_details(serving.store, session, row, with_manifest=let_in)


def readable_version(session: Session, caller: Caller, target: Reference, revision: str) -> VersionRow:
    """The version, if the caller may see it. Raises AdapterNotFound, RevisionNotFound, InvalidReference."""
    readable_repo(session, caller, target)
    return require_version(session, Reference(None, target.namespace, target.name, revision))
