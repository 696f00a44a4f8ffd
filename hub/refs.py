"""Branches and tags made and deleted. A name is one thing only: what a version, alias, branch or tag has is taken.

Every function runs inside a transaction of the database's. Where a branch moves is `commits`.
"""

from __future__ import annotations

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from adapthub.adapters.errors import Conflict, InvalidReference, RevisionNotFound
from adapthub.hub.paths import check_ref
from adapthub.hub.storage.tables import MAIN, AliasRow, CommitRow, RefRow, RepoRow


def make_branch(session: Session, repo: RepoRow, name: str, commit: CommitRow) -> None:
    """A branch that begins at `commit`. Raises Conflict where the name is taken, InvalidReference for one that cannot be."""
    _make(session, RefRow(repo_id=repo.id, name=check_ref(name, "branch"), commit_id=commit.id), repo)


def make_tag(session: Session, repo: RepoRow, name: str, commit: CommitRow, *, message: str = "") -> None:
    """A tag of `commit`. Raises Conflict where the name is taken, InvalidReference for one that cannot be."""
    ref = RefRow(
        repo_id=repo.id, name=check_ref(name, "tag"), commit_id=commit.id, is_tag=True, message=message
    )
    _make(session, ref, repo)


def delete(session: Session, repo: RepoRow, name: str, *, is_tag: bool) -> None:
    """Take a branch or a tag away. Raises RevisionNotFound where it is not there, InvalidReference for main."""
    if name == MAIN:
        raise InvalidReference("the branch main cannot be deleted", hint="Delete the repository instead.")
    ref = None if "\0" in name else session.get(RefRow, (repo.id, name))
    if ref is None or ref.is_tag != is_tag:
        raise RevisionNotFound(f"{repo.full_name} has no {'tag' if is_tag else 'branch'} {name[:120]}")
    session.delete(ref)


def _make(session: Session, ref: RefRow, repo: RepoRow) -> None:
    taken = Conflict(
        f"{repo.full_name} has a branch, tag or alias {ref.name} already", hint="Choose another name."
    )
    if session.get(RefRow, (repo.id, ref.name)) or session.get(AliasRow, (repo.id, ref.name)):
        raise taken
    try:
        with session.begin_nested():
            session.add(ref)
    except IntegrityError as error:  # another writer was faster
        raise taken from error
