"""What a revision in a URL means: a branch, a tag, an alias, `vN`, a commit or a digest, or the beginning of either.

In this order; the names of the first four never overlap, because what would is refused when it is made. What names a version
means the commit that has its signature, once there is one (signatures). Resolve once and go on with the commit: a branch may
move at any time.
"""

from __future__ import annotations

import re

from sqlalchemy import select
from sqlalchemy.orm import Session

from adapthub.adapters.errors import RevisionNotFound
from adapthub.adapters.suggest import did_you_mean
from adapthub.hub.signatures import signed_commit, version_of_commit
from adapthub.hub.storage.tables import MAIN, AliasRow, CommitRow, RefRow, RepoRow, VersionRow
from adapthub.hub.storage.types import hex_range

LATEST = "latest"
_NUMBER = re.compile(r"v([1-9][0-9]{0,8})")
_HEX = re.compile(r"(?:sha256:)?([0-9a-f]{7,64})")
_PREFIXES = ("refs/heads/", "refs/tags/", "refs/aliases/")


def require_commit(session: Session, repo: RepoRow, revision: str) -> CommitRow:
    """The commit that `revision` means now. Raises RevisionNotFound, suggesting near names."""
    found = _find(session, repo, revision)
    if len(found) == 1:
        return found[0]
    if found:
        raise RevisionNotFound(
            f"{revision} fits more than one commit of {repo.full_name}", hint="Write more digits of it."
        )
    raise RevisionNotFound(
        f"{repo.full_name} has no revision {revision[:120]}",
        hint=did_you_mean(revision, _names(session, repo)),
    )


def require_version_at(session: Session, repo: RepoRow, revision: str) -> VersionRow:
    """The version that `revision` means now. Raises RevisionNotFound where it means a commit that is no version; of main,
    which may have moved on without a whole adapter, it is the newest version."""
    wanted = LATEST if revision == MAIN and repo.newest else revision
    version = version_of_commit(session, require_commit(session, repo, wanted))
    if version is None:
        raise RevisionNotFound(
            f"{revision[:120]} of {repo.full_name} is no version: its files are not a whole adapter",
            hint=f"The newest version is v{repo.newest}." if repo.newest else "Push an adapter first.",
        )
    return version


def head_of(session: Session, repo: RepoRow, branch: str = MAIN) -> CommitRow | None:
    """The commit at the end of a branch; None where there is no such branch."""
    return session.scalar(
        select(CommitRow)
        .join(RefRow, RefRow.commit_id == CommitRow.id)
        .where(RefRow.repo_id == repo.id, RefRow.name == branch, RefRow.is_tag.is_(False))
    )


def standing_commit(session: Session, version_id: int) -> CommitRow:
    """The commit that a version's names mean: its own, or the one that has its signature too."""
    return signed_commit(session, version_id) or session.get_one(CommitRow, version_id)


def _find(session: Session, repo: RepoRow, revision: str) -> list[CommitRow]:
    if "\0" in revision:
        return []
    name = revision
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    named = session.get(RefRow, (repo.id, name))
    if named is not None:
        return [named.commit]
    alias = session.get(AliasRow, (repo.id, name))
    if alias is not None:
        return [standing_commit(session, alias.version_id)]
    number = _NUMBER.fullmatch(name)
    if number or name == LATEST:
        wanted = int(number[1]) if number else repo.newest
        numbered = select(VersionRow.id).where(VersionRow.repo_id == repo.id, VersionRow.number == wanted)
        return [standing_commit(session, id) for id in session.scalars(numbered)]
    digits = _HEX.fullmatch(name)
    if digits is None:
        return []
    return _by_digits(session, repo, digits[1])


def _by_digits(session: Session, repo: RepoRow, digits: str) -> list[CommitRow]:
    """At most two commits whose own id, or whose version's digest, begins so."""
    by_digest = select(VersionRow.id).where(
        VersionRow.repo_id == repo.id, VersionRow.digest.between(*hex_range(digits, 64))
    )
    found = {id: standing_commit(session, id) for id in session.scalars(by_digest.limit(2))}
    if len(digits) <= 40:
        by_oid = select(CommitRow).where(
            CommitRow.repo_id == repo.id, CommitRow.oid.between(*hex_range(digits, 40))
        )
        found |= {commit.id: commit for commit in session.scalars(by_oid.limit(2))}
    return [*found.values()]


def _names(session: Session, repo: RepoRow) -> list[str]:
    refs = session.scalars(select(RefRow.name).where(RefRow.repo_id == repo.id).limit(100))
    return [
        *refs,
        *(alias.alias for alias in repo.aliases),
        *(f"v{number}" for number in range(repo.newest, 0, -1)[:8]),
    ]
