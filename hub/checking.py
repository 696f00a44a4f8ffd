"""Whether a hub is whole: every blob against its digest, every version against its files, every name against what it means,
and the audit log against its own hashes.

Reads everything and changes nothing; clients may write meanwhile. What garbage a killed process left is counted, not
complained of: it harms nobody and goes with the next collection.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from adapthub.adapters.description import digest_of
from adapthub.adapters.errors import AdaptHubError, IntegrityError
from adapthub.hub import audit, epoch
from adapthub.hub.inspection import inspect_tree
from adapthub.hub.records import bare_digest
from adapthub.hub.signatures import digests_of
from adapthub.hub.storage.tables import (
    AliasRow,
    BlobRow,
    CommitRow,
    FileRow,
    RefRow,
    RepoRow,
    VersionRow,
)
from adapthub.hub.store import Store
from adapthub.hub.trees import read_tree

_AT_ONCE = 500
_NAMES = 3  # of what a damaged blob is a file of, at most


@dataclass
class Report:
    """What was looked at, and what is wrong. `garbage`: blobs that no commit names, known to the database or not."""

    epoch: int
    blobs: int = 0
    bytes: int = 0
    versions: int = 0
    garbage: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def check(store: Store, *, quick: bool = False) -> Report:
    """Look at everything in a hub; with `quick` at blobs' sizes and not at their bytes. Raises StorageError where the
    database or the blobs cannot be read at all."""
    with store.database.reading() as session:
        report = Report(epoch.recorded(session))
    sizes = {one.sha256: one.size for one in store.blobs.stored()}
    unknown = set(sizes)
    last = 0
    while True:
        with store.database.reading() as session:
            rows = session.scalars(
                select(BlobRow).where(BlobRow.id > last).order_by(BlobRow.id).limit(_AT_ONCE)
            ).all()
            named = {row.id: _files(session, row.id) for row in rows}
        if not rows:
            break
        for row in rows:
            unknown.discard(row.sha256)
            _check_blob(store, report, row, sizes.get(row.sha256), named[row.id], quick)
        last = rows[-1].id
    report.garbage += len(unknown)
    _check_versions(store, report)
    with store.database.reading() as session:
        report.problems += _names(session)
        try:
            audit.verify(session)
        except IntegrityError as error:
            report.problems.append(error.message)
    return report


def _check_blob(
    store: Store, report: Report, row: BlobRow, size: int | None, named: list[str], quick: bool
) -> None:
    if not named:
        report.garbage += 1
        return
    report.blobs += 1
    report.bytes += row.size
    if size is None:
        size = store.blobs.size(row.sha256)  # it may have come since
    if size is None:
        wrong = "is missing"
    elif size != row.size:
        wrong = f"has {size} bytes, not {row.size}"
    elif not quick and _digest(store, row.sha256) != row.sha256:
        wrong = "has other bytes than its digest says"
    else:
        return
    report.problems.append(f"the blob {row.sha256} {wrong}: {', '.join(named)}")


def _digest(store: Store, sha256: str) -> str | None:
    digest = hashlib.sha256()
    try:
        for piece in store.blobs.pieces(sha256):
            digest.update(piece)
    except AdaptHubError:
        return None
    return digest.hexdigest()


def _files(session: Session, blob: int) -> list[str]:
    """Some of the files that a blob is."""
    rows = session.execute(
        select(RepoRow.namespace, RepoRow.name, CommitRow.oid, FileRow.path)
        .select_from(FileRow)
        .join(CommitRow, CommitRow.id == FileRow.commit_id)
        .join(RepoRow, RepoRow.id == CommitRow.repo_id)
        .where(FileRow.blob_id == blob)
        .limit(_NAMES)
    )
    return [f"{namespace}/{name}@{oid[:12]} {path}" for namespace, name, oid, path in rows]


def _check_versions(store: Store, report: Report) -> None:
    last = 0
    while True:
        with store.database.reading() as session:
            rows = session.execute(
                select(VersionRow.id, VersionRow.number, VersionRow.digest, RepoRow.namespace, RepoRow.name)
                .join(RepoRow, RepoRow.id == VersionRow.repo_id)
                .where(VersionRow.id > last)
                .order_by(VersionRow.id)
                .limit(_AT_ONCE)
            ).all()
            trees = {row.id: read_tree(session, row.id) for row in rows}
        if not rows:
            return
        for row in rows:
            report.versions += 1
            name = f"{row.namespace}/{row.name}@v{row.number}"
            if bare_digest(digest_of(digests_of(trees[row.id]))) != row.digest:
                report.problems.append(f"{name} has other files than its digest says")
                continue
            try:
                if inspect_tree(trees[row.id], store.read, where=name).adapter is None:
                    report.problems.append(f"{name} is no whole adapter")
            except AdaptHubError as error:
                report.problems.append(f"{name}: {error}")
        last = rows[-1].id


def _names(session: Session) -> Iterator[str]:
    """What is wrong with branches, tags, aliases and the numbers of versions."""
    astray = (
        select(RepoRow.namespace, RepoRow.name, RefRow.name)
        .select_from(RefRow)
        .join(RepoRow, RepoRow.id == RefRow.repo_id)
        .join(CommitRow, CommitRow.id == RefRow.commit_id)
        .where(CommitRow.repo_id != RefRow.repo_id)
    )
    aliases = (
        select(RepoRow.namespace, RepoRow.name, AliasRow.alias)
        .select_from(AliasRow)
        .join(RepoRow, RepoRow.id == AliasRow.repo_id)
        .join(VersionRow, VersionRow.id == AliasRow.version_id)
        .where(VersionRow.repo_id != AliasRow.repo_id)
    )
    for query in (astray, aliases):
        for namespace, repo, name in session.execute(query):
            yield f"{name} of {namespace}/{repo} is of another repository"
    counted = (
        select(RepoRow.namespace, RepoRow.name, RepoRow.newest, func.max(VersionRow.number))
        .outerjoin(VersionRow, VersionRow.repo_id == RepoRow.id)
        .group_by(RepoRow.id, RepoRow.namespace, RepoRow.name, RepoRow.newest)
        .having(func.coalesce(func.max(VersionRow.number), 0) != RepoRow.newest)
    )
    for namespace, repo, newest, found in islice(session.execute(counted), _AT_ONCE):
        yield f"{namespace}/{repo} counts {newest} versions and its newest is {found or 0}"
