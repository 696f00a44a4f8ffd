"""What pages show of a repository at a revision, read in one view of the database. Shows nobody what is not for them.

Renders nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from adapthub.adapters.admission import CARD
from adapthub.adapters.description import Description
from adapthub.adapters.errors import ArtifactError, Forbidden
from adapthub.hub.access import Caller, check_gate, readable_repo
from adapthub.hub.inspection import adapter_in
from adapthub.hub.records import facts_of, version_of
from adapthub.hub.reference import Reference
from adapthub.hub.registry import Alias, Facts, Move, Version
from adapthub.hub.revisions import head_of, require_commit
from adapthub.hub.signatures import version_of_commit
from adapthub.hub.storage.blobs import BlobLost
from adapthub.hub.storage.tables import AliasMoveRow, AliasRow, CommitRow, RepoRow, VersionRow
from adapthub.hub.store import Store
from adapthub.hub.trees import Tree, read_tree

VERSIONS_SHOWN = 50
MOVES_SHOWN = 100
_CARD_BYTES = 2**20


@dataclass(frozen=True)
class Measured:
    """A version with what it says of itself."""

    version: Version
    facts: Facts


@dataclass(frozen=True)
class Repository:
    """A repository at one revision.

    `revision` is what the address names it by: the version of its commit, else the commit. `commit` is 40 hex digits, None
    where there is none yet. `is_version`: the commit is a version, or one with its signature. `shown` is that version, else
    the newest before the commit; None where there is none.
    `versions` are VERSIONS_SHOWN of them, newest first; `aliases` have the last MOVES_SHOWN moves of all. `refused`: why its
    files are not for who asks, None where they are.
    """

    key: int
    name: str
    private: bool
    gated: bool
    modified: datetime
    tags: Sequence[str]
    newest: int
    commit: str | None
    revision: str
    is_version: bool
    shown: Measured | None
    version_key: int | None
    versions: tuple[Measured, ...]
    aliases: tuple[Alias, ...]
    files: Tree
    refused: str | None

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(blob.size for blob in self.files.values())

    def aliases_at(self, number: int) -> list[str]:
        """The aliases that mean that version now."""
        return [alias.name for alias in self.aliases if alias.number == number]


def read_repository(
    store: Store, caller: Caller, target: Reference, revision: str | None = None, before: int | None = None
) -> Repository:
    """The repository as `caller` may see it; without a `revision`, its main branch. `before`: list versions below it.

    Raises AdapterNotFound, RevisionNotFound.
    """
    with store.database.reading() as session:
        repo = readable_repo(session, caller, target)
        commit = head_of(session, repo) if revision is None else require_commit(session, repo, revision)
        exact = None if commit is None else version_of_commit(session, commit)
        version = exact if commit is None or exact is not None else _version_before(session, repo, commit)
        return Repository(
            key=repo.id,
            name=repo.full_name,
            private=repo.private,
            gated=repo.gated is not None,
            modified=repo.modified,
            tags=repo.tags,
            newest=repo.newest,
            commit=None if commit is None else commit.oid,
            revision=_named(commit, exact),
            is_version=exact is not None,
            shown=None if version is None else _measured(version),
            version_key=None if version is None else version.id,
            versions=tuple(_measured(row) for row in _versions(session, repo, before)),
            aliases=_aliases(session, repo),
            files={} if commit is None else read_tree(session, commit.id),
            refused=_refused(session, caller, repo),
        )


def read_adapter(store: Store, repository: Repository) -> Description | None:
    """The adapter that the files are; None where they are none, or none that can be read."""
    try:
        return adapter_in(repository.files, store.read, where=repository.name)
    except BlobLost:  # that is no fault of the adapter's
        raise
    except ArtifactError:
        return None


def read_card(store: Store, repository: Repository) -> str | None:
    """The text of README.md, of a very long one its beginning."""
    blob = repository.files.get(CARD)
    return None if blob is None else store.read(blob, 0, min(blob.size, _CARD_BYTES)).decode(errors="replace")


def _version_before(session: Session, repo: RepoRow, commit: CommitRow) -> VersionRow | None:
    """The newest version before a commit that is none."""
    return session.scalar(
        select(VersionRow)
        .where(VersionRow.repo_id == repo.id, VersionRow.id <= commit.id)
        .order_by(VersionRow.id.desc())
        .limit(1)
    )


def _versions(session: Session, repo: RepoRow, before: int | None) -> Sequence[VersionRow]:
    query = (
        select(VersionRow)
        .where(VersionRow.repo_id == repo.id)
        .order_by(VersionRow.number.desc())
        .limit(VERSIONS_SHOWN)
        .options(joinedload(VersionRow.commit), joinedload(VersionRow.repo))
    )
    return session.scalars(query if before is None else query.where(VersionRow.number < before)).all()


def _aliases(session: Session, repo: RepoRow) -> tuple[Alias, ...]:
    moves = session.scalars(
        select(AliasMoveRow)
        .where(AliasMoveRow.repo_id == repo.id)
        .order_by(AliasMoveRow.id.desc())
        .limit(MOVES_SHOWN)
        .options(joinedload(AliasMoveRow.source), joinedload(AliasMoveRow.target))
    ).all()
    rows = session.scalars(
        select(AliasRow)
        .where(AliasRow.repo_id == repo.id)
        .order_by(AliasRow.alias)
        .limit(MOVES_SHOWN)
        .options(joinedload(AliasRow.version))
    )
    return tuple(
        Alias(
            row.alias,
            row.version.number,
            tuple(_move(move) for move in reversed(moves) if move.alias == row.alias),
        )
        for row in rows
    )


def _move(row: AliasMoveRow) -> Move:
    return Move(row.moved, None if row.source is None else row.source.number, row.target.number)


def _measured(row: VersionRow) -> Measured:
    return Measured(version_of(row), facts_of(row))


def _named(commit: CommitRow | None, version: VersionRow | None) -> str:
    if version is not None:
        return f"v{version.number}"
    return "main" if commit is None else commit.oid


def _refused(session: Session, caller: Caller, repo: RepoRow) -> str | None:
    try:
        check_gate(session, caller, repo)
    except Forbidden as error:
        return str(error)
    return None
