"""Promotion: an alias moves to a version if every gate that fits holds; a refusal is recorded and told.

A rollback asks no gate. It goes back to a version that the alias pointed to before, which had passed what was asked of it
then; and it is what somebody does in a hurry, when the version in use turned out bad. It is recorded and told as any move.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from typing import Any

from sqlalchemy.orm import Session

from adapthub.adapters.admission import MANIFEST, SIGNATURE
from adapthub.adapters.errors import AdaptHubError
from adapthub.hub import aliases
from adapthub.hub.audit import MACHINE, Actor
from adapthub.hub.events import happened
from adapthub.hub.gates import GateRefused, list_gates, unmet
from adapthub.hub.lookup import find_repo
from adapthub.hub.reference import Reference
from adapthub.hub.repos import lock
from adapthub.hub.signatures import files_of_version, signature_of
from adapthub.hub.storage.tables import AliasRow, VersionRow
from adapthub.hub.store import ReadAhead, Store
from adapthub.hub.trees import Blob


def promote(
    session: Session, store: Store, version: VersionRow, alias: str, *, actor: Actor = MACHINE
) -> None:
    """Point `alias` at `version`; where it points there already nothing is asked. `store`: what `read_ahead` gave. Raises
    GateRefused where a gate does not let it."""
    lock(session, version.repo)  # what the gates compare with is what the alias moves from
    current = session.get(AliasRow, (version.repo_id, alias))
    if current is not None and current.version_id == version.id:
        return
    missing = unmet(session, store, version, alias)
    if missing:
        raise GateRefused(f"v{version.number} of {version.repo.full_name}", alias, missing)
    aliases.point(session, version, alias, actor=actor)


def ahead_of(session: Session, store: Store, version: VersionRow, alias: str) -> Store:
    """`read_ahead` for a version that is there."""
    files = files_of_version(session, version)
    signature = signature_of(session, version)
    if signature is not None:
        files[SIGNATURE] = signature
    return read_ahead(session, store, Reference.parse(version.repo.full_name), files, alias)


def read_ahead(
    session: Session, store: Store, reference: Reference, files: Mapping[str, Blob], alias: str
) -> Store:
    """A store that has what gates read of a version with these `files`, and of the one that `alias` points to now. Asked
    before the transaction that promotes: others wait while that runs, and blobs may be far away. What is not ahead,
    because something was changed until then, is read within it all the same."""
    gates = list_gates(session, reference.namespace, reference.name)
    if not any(fnmatchcase(alias, gate.alias) for gate in gates):
        return store
    asked = [files.get(name) for name in (MANIFEST, SIGNATURE)]
    repo = find_repo(session, reference)
    current = None if repo is None else session.get(AliasRow, (repo.id, alias))
    if current is not None:
        asked.append(files_of_version(session, current.version).get(MANIFEST))
    ahead = {}
    for blob in asked:
        if blob is not None:
            with suppress(AdaptHubError):  # the gates say what is wrong with it
                ahead[blob.sha256] = store.read(blob, 0, blob.size)
    return ReadAhead(store.database, store.blobs, ahead)


@contextmanager
def refusals_told(store: Store, repo: str, *, actor: Actor = MACHINE) -> Iterator[None]:
    """Around a transaction that promotes a version of `repo`, a full name: a refusal, which undoes the transaction, is
    recorded in one of its own."""
    try:
        yield
    except GateRefused as error:
        with store.database.writing() as session:
            detail: dict[str, Any] = {
                "alias": error.alias,
                "version": error.version,
                "unmet": list(error.unmet),
            }
            happened(session, actor, "gate.refused", repo=repo, **detail)
        raise
