"""Promotion: an alias moves to a version if every gate that fits holds; a refusal is recorded and told.

A rollback asks no gate. It goes back to a version that the alias pointed to before, which had passed what was asked of it
then; and it is what somebody does in a hurry, when the version in use turned out bad. It is recorded and told as any move.
"""

from __future__ import annotations

from sqlalchemy.orm import Session

from adapthub.hub import aliases
from adapthub.hub.audit import MACHINE, Actor
from adapthub.hub.events import happened
from adapthub.hub.gates import GateRefused, unmet
from adapthub.hub.repos import lock
from adapthub.hub.storage.tables import VersionRow
from adapthub.hub.store import Store


def promote(
    session: Session, store: Store, version: VersionRow, alias: str, *, actor: Actor = MACHINE
) -> None:
    """Point `alias` at `version`. Raises GateRefused, which the caller gives to `refused` once its transaction is undone."""
    lock(session, version.repo)  # what the gates compare with is what the alias moves from
    missing = unmet(session, store, version, alias)
    if missing:
        raise GateRefused(f"v{version.number} of {version.repo.full_name}", alias, missing)
    aliases.promote(session, version, alias, actor=actor)


def refused(store: Store, repo: str, error: GateRefused, *, actor: Actor = MACHINE) -> None:
    """Record a refusal, in a transaction of its own. `repo` is a full name."""
    with store.database.writing() as session:
        detail = {"alias": error.alias, "version": error.version, "unmet": list(error.unmet)}
        happened(session, actor, "gate.refused", repo=repo, **detail)
