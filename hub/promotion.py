"""Promotion: an alias moves to a version if every gate that fits holds; a refusal is recorded and told.

A rollback asks no gate. It goes back to a version that the alias pointed to before, which had passed what was asked of it
then; and it is what somebody does in a hurry, when the version in use turned out bad. It is recorded and told as any move.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.orm import Session

from adapthub.hub import aliases
from adapthub.hub.audit import MACHINE, Actor
from adapthub.hub.events import happened
from adapthub.hub.gates import GateRefused, unmet
from adapthub.hub.repos import lock
from adapthub.hub.storage.tables import AliasRow, VersionRow
from adapthub.hub.store import Store


def promote(
    session: Session, store: Store, version: VersionRow, alias: str, *, actor: Actor = MACHINE
) -> None:
    """Point `alias` at `version`; where it points there already nothing is asked. Raises GateRefused where a gate does not
    let it."""
    lock(session, version.repo)  # what the gates compare with is what the alias moves from
    current = session.get(AliasRow, (version.repo_id, alias))
    if current is not None and current.version_id == version.id:
        return
    missing = unmet(session, store, version, alias)
    if missing:
        raise GateRefused(f"v{version.number} of {version.repo.full_name}", alias, missing)
    aliases.point(session, version, alias, actor=actor)


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
