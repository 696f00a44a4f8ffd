"""What an adapter goes with: the newest adapters on the same base that a visitor may see, each with the verdict of
hub/composition. Nothing of their weights is read but headers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from adapthub.adapters.errors import ArtifactError
from adapthub.hub.access import Caller, visible
from adapthub.hub.composition import Composition, Traits, compose, traits_of
from adapthub.hub.inspection import adapter_in
from adapthub.hub.storage.tables import RepoRow, TermRow, VersionRow
from adapthub.hub.store import Store
from adapthub.hub.trees import read_tree

MOST = 12
_REMEMBERED = 1024


@dataclass(frozen=True)
class Partner:
    """Another adapter's newest version, and the two together."""

    name: str
    number: int
    task: str | None
    rank: int | None
    together: Composition


class Composer:
    """Answers from one store, and remembers what versions are like, which never changes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._traits = lru_cache(_REMEMBERED)(self._read)

    def traits(self, key: int, digest: str) -> Traits | None:
        """Of the version with that key and digest; None where its files cannot be read."""
        return self._traits(key, digest)

    def partners(self, caller: Caller, repo: int, key: int, digest: str) -> Sequence[Partner]:
        """MOST adapters that share the base of a version of the repository `repo`, those that changed last first."""
        own = self.traits(key, digest)
        if own is None or own.base is None:
            return ()
        with self._store.database.reading() as session:
            rows = _on_base(session, caller, own.base, repo)
        found = []
        for name, version, digest_of, number, task, rank in rows:
            other = self.traits(version, digest_of)
            if other is not None:
                found.append(Partner(name, number, task, rank, compose(own, other)))
        return found

    def _read(self, key: int, digest: str) -> Traits | None:
        with self._store.database.reading() as session:
            tree = read_tree(session, key)
        try:
            adapter = adapter_in(tree, self._store.read, where=digest)
        except ArtifactError:
            return None
        return None if adapter is None else traits_of(adapter)


def _on_base(
    session: Session, caller: Caller, fingerprint: str, repo: int
) -> list[tuple[str, int, str, int, str | None, int | None]]:
    newest = and_(VersionRow.repo_id == RepoRow.id, VersionRow.number == RepoRow.newest)
    query = (
        select(RepoRow, VersionRow)
        .join(TermRow, TermRow.sequence == RepoRow.sequence)
        .join(VersionRow, newest)
        .where(
            TermRow.kind == "fingerprint", TermRow.term == fingerprint, RepoRow.id != repo, visible(caller)
        )
        .order_by(TermRow.sequence.desc())
        .limit(MOST)
    )
    return [
        (named.full_name, row.id, f"sha256:{row.digest}", row.number, row.task, row.rank)
        for named, row in session.execute(query)
    ]
