"""How aliases move: forward by promotion, back by rollback, each move written down in the same transaction.

A rollback takes back the last promotion that none has taken back yet, so that several in a row walk further
back and a promotion after them starts from where the alias then is. Does not decide which version a reference
means, and does not ask the gates (promotion does).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from adapthub.adapters.errors import Conflict, RevisionNotFound
from adapthub.adapters.suggest import did_you_mean
from adapthub.hub.audit import MACHINE, Actor
from adapthub.hub.events import happened
from adapthub.hub.repos import lock
from adapthub.hub.storage.tables import AliasMoveRow, AliasRow, RefRow, RepoRow, VersionRow


def point(session: Session, version: VersionRow, alias: str, *, actor: Actor = MACHINE) -> None:
    """Point `alias` at `version`, which it does not yet (promotion looks), past every gate (promotion asks them). Raises
    Conflict where a branch or a tag has that name."""
    # Of two that move it at once the second starts from where the first put it.
    repo = lock(session, version.repo)
    if session.get(RefRow, (repo.id, alias)) is not None:
        raise Conflict(
            f"{repo.full_name} has a branch or a tag {alias}", hint="Delete it, or choose another alias."
        )
    current = session.get(AliasRow, (version.repo_id, alias))
    if current is None:
        session.add(AliasRow(repo_id=version.repo_id, alias=alias, version_id=version.id))
        _record(session, version.repo_id, alias, source=None, target=version.id)
        _tell(session, version.repo, alias, None, version, actor)
    else:
        before = current.version.number
        _record(session, version.repo_id, alias, source=current.version_id, target=version.id)
        current.version = version
        _tell(session, version.repo, alias, before, version, actor)


def rollback(session: Session, repo: RepoRow, name: str, alias: str, *, actor: Actor = MACHINE) -> VersionRow:
    """Point `alias` of `repo` (whose full name is `name`) back, and return where it points now."""
    lock(session, repo)
    current = session.get(AliasRow, (repo.id, alias))
    if current is None:
        raise RevisionNotFound(
            f"{name} has no alias {alias}", hint=did_you_mean(alias, [row.alias for row in repo.aliases])
        )
    undo = aliased(AliasMoveRow)
    last = session.scalars(
        select(AliasMoveRow)
        .where(
            AliasMoveRow.repo_id == repo.id,
            AliasMoveRow.alias == alias,
            AliasMoveRow.undoes.is_(None),
            ~select(undo.id).where(undo.undoes == AliasMoveRow.id).exists(),
        )
        .order_by(AliasMoveRow.id.desc())
        .limit(1)
    ).one()
    if last.source is None:
        raise RevisionNotFound(
            f"alias {alias} of {name} has nothing to go back to: "
            f"v{current.version.number} is the first version that it was given",
            hint=f"Move it with a promotion, for example of {name}@v{repo.newest}.",
        )
    _record(session, repo.id, alias, source=current.version_id, target=last.source.id, undoes=last.id)
    before, current.version = current.version.number, last.source
    _tell(session, repo, alias, before, last.source, actor, rollback=True)
    return last.source


def _tell(
    session: Session,
    repo: RepoRow,
    alias: str,
    source: int | None,
    target: VersionRow,
    actor: Actor,
    *,
    rollback: bool = False,
) -> None:
    detail: dict[str, Any] = {"alias": alias, "from": source, "to": target.number, "digest": target.digest}
    happened(session, actor, "alias.moved", repo=repo.full_name, **detail, rollback=rollback)


def _record(
    session: Session,
    repo_id: int,
    alias: str,
    *,
    source: int | None,
    target: int,
    undoes: int | None = None,
) -> None:
    session.add(
        AliasMoveRow(
            repo_id=repo_id,
            alias=alias,
            moved=datetime.now(UTC),
            source_id=source,
            target_id=target,
            undoes=undoes,
        )
    )
