"""What a repository was sent: bytes that it may name in its commits.

Bytes are stored once for the whole hub, so a sha256 alone says nothing about who may have them: a commit names what its own
repository was sent, or what is in a tree of it already. Anything else has to be uploaded, also where the hub has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, delete, or_, select
from sqlalchemy.orm import Session

from adapthub.hub import quotas, repos
from adapthub.hub.access import check_still
from adapthub.hub.lookup import require_repo
from adapthub.hub.reference import Reference
from adapthub.hub.storage.dialects import insert_or_update
from adapthub.hub.storage.retrying import retried
from adapthub.hub.storage.tables import BlobRow, CommitRow, FileRow, RefRow, RepoRow
from adapthub.hub.storage.upkeep_tables import PendingRow, SentRow
from adapthub.hub.store import Store, blob_ids, register
from adapthub.hub.trees import Blob


def expect(store: Store, reference: Reference, blob: Blob, token: str | None) -> None:
    """Before `blob` comes for the repository `reference`: raises as `received` will."""
    with store.database.reading() as session:
        repo = require_repo(session, reference)
        check_still(session, token, repo.namespace)
        quotas.check(session, repo.namespace, [blob])


def expect_part(store: Store, reference: Reference, size: int, token: str | None, part: str) -> None:
    """Before `size` bytes, it is not known which, come for `reference` as that `part` of a file: raises as `received` will,
    as far as can be known."""
    with store.database.reading() as session:
        repo = require_repo(session, reference)
        check_still(session, token, repo.namespace)
        before = sum(blob.size for blob in _sent_as(session, repo, SentRow.part == part))
        quotas.check_bytes(session, repo.namespace, size - before)


def received(
    store: Store,
    reference: Reference,
    blobs: Iterable[Blob],
    *,
    token: str | None,
    parts_of: str | None = None,
    part: str | None = None,
) -> list[str]:
    """Write down that the repository `reference` was sent bytes that the blob store holds now, by who has the token of the
    prefix `token`; in place of what came as `parts_of` a file, by its sha256, and as nothing else. `part`: which part of a
    file the blob is, in place of what came as that alone before. What nothing holds then, by sha256: it may be discarded.

    Raises AdapterNotFound where it is gone, Unauthorized or Forbidden where the token may not write to it any more,
    Forbidden where its namespace would hold more than it may, StorageError where a collection was faster.
    """
    found = list(blobs)
    if not found:
        return []
    replaced = _write_down(store, reference, found, parts_of, part, token)
    store.require(found)
    return replaced


@retried
def _write_down(
    store: Store,
    reference: Reference,
    found: Sequence[Blob],
    parts_of: str | None,
    part: str | None,
    token: str | None,
) -> list[str]:
    with store.database.writing() as session:
        repo = repos.require_locked(session, reference)
        check_still(session, token, repo.namespace)
        sent_before = [] if part is None else _sent_as(session, repo, SentRow.part == part)
        if parts_of is not None:
            sent_before += _sent_as(session, repo, SentRow.part.startswith(f"{parts_of}/"))
        gone = {blob.sha256 for blob in sent_before} - {blob.sha256 for blob in found}
        replaced = only_its_own(session, repo, gone) if gone else []
        if gone:
            forget(session, repo, gone)
        quotas.reserve(session, repo.namespace, found)
        register(session, found)
        keys = blob_ids(session, [blob.sha256 for blob in found])
        now = datetime.now(UTC)
        known = {} if part is None else _known_as(session, repo, keys.values())
        sent = [
            {
                "repo_id": repo.id,
                "blob_id": key,
                "sent": now,
                "part": _common(known[key], part) if key in known else part,
            }
            for key in keys.values()
        ]
        insert_or_update(session, SentRow, sent, key=["repo_id", "blob_id"], changed=["sent", "part"])
        return replaced


def _sent_as(session: Session, repo: RepoRow, part: ColumnElement[bool]) -> list[Blob]:
    """What the repository was sent as such a part of a file."""
    query = select(BlobRow.sha256, BlobRow.size).join(SentRow, SentRow.blob_id == BlobRow.id)
    return [Blob(*row) for row in session.execute(query.where(SentRow.repo_id == repo.id, part))]


def _known_as(session: Session, repo: RepoRow, keys: Iterable[int]) -> dict[int, str | None]:
    """Which parts of files the blobs with those keys are that the repository was sent, by key."""
    query = select(SentRow.blob_id, SentRow.part).where(SentRow.repo_id == repo.id)
    return {row.blob_id: row.part for row in session.execute(query.where(SentRow.blob_id.in_(list(keys))))}


def _common(before: str | None, now: str | None) -> str | None:
    """Which part of a file bytes are (SentRow) that came as `before`, and come as `now` too."""
    if before is None or now is None:
        return None
    if before == now:
        return now
    file = now.partition("/")[0]
    return f"{file}/" if before.startswith(f"{file}/") else None


def await_publication(
    store: Store,
    reference: Reference,
    blobs: Sequence[Blob],
    token: str | None,
    *,
    parts: Iterable[Blob] = (),
) -> list[str]:
    """Write down that the blob store holds blobs now that are about to be published as `reference`, which need not be there
    yet: they count as the namespace's, and are not asked for again. They take the place of `parts`, that came for it too.
    What nothing holds then, by sha256: it may be discarded. Raises as `received` does."""
    replaced = _await(store, reference, blobs, token, {part.sha256 for part in parts})
    store.require(blobs)
    return replaced


@retried
def _await(
    store: Store, reference: Reference, blobs: Sequence[Blob], token: str | None, parts: set[str]
) -> list[str]:
    with store.database.writing() as session:
        check_still(session, token, reference.namespace)
        replaced = _replaced(session, reference, parts - {blob.sha256 for blob in blobs}) if parts else []
        quotas.reserve(session, reference.namespace, blobs)
        register(session, blobs)
        name = {"namespace": reference.namespace, "name": reference.name}
        keys = blob_ids(session, [blob.sha256 for blob in blobs]).values()
        rows = [{**name, "blob_id": key, "sent": datetime.now(UTC)} for key in keys]
        insert_or_update(session, PendingRow, rows, key=["namespace", "name", "blob_id"], changed=["sent"])
        return replaced


def _replaced(session: Session, reference: Reference, parts: Iterable[str]) -> list[str]:
    """Let `parts` wait no longer; those that nobody has uploaded since."""
    query = select(BlobRow.sha256).join(PendingRow, PendingRow.blob_id == BlobRow.id)
    query = query.where(*_named(reference), BlobRow.sha256.in_(parts), PendingRow.sent >= BlobRow.stored)
    replaced = [*session.scalars(query)]
    published(session, reference, parts)
    return replaced


def awaiting(session: Session, reference: Reference, sha256s: Iterable[str]) -> dict[str, Blob]:
    """Those of the blobs that were sent to be published as `reference`."""
    rows = session.execute(
        select(BlobRow.sha256, BlobRow.size)
        .join(PendingRow, PendingRow.blob_id == BlobRow.id)
        .where(*_named(reference), BlobRow.sha256.in_(list(sha256s)))
    )
    return {sha256: Blob(sha256, size) for sha256, size in rows}


def published(session: Session, reference: Reference, sha256s: Iterable[str]) -> None:
    """Blobs of `reference` wait no longer: a version, or a file that they were parts of, has them."""
    keys = select(BlobRow.id).where(BlobRow.sha256.in_(list(sha256s)))
    session.execute(delete(PendingRow).where(*_named(reference), PendingRow.blob_id.in_(keys)))


def _named(reference: Reference) -> tuple[ColumnElement[bool], ...]:
    return PendingRow.namespace == reference.namespace, PendingRow.name == reference.name


def held(session: Session, repo: RepoRow, sha256s: Iterable[str], *, parts: bool = False) -> dict[str, Blob]:
    """Those of the blobs that commits of `repo` may name: it was sent them, or a branch or tag of it has them. With `parts`
    also those that came as parts of a file alone, which go when that is whole."""
    sent = select(SentRow.blob_id).where(SentRow.repo_id == repo.id)
    if not parts:
        sent = sent.where(SentRow.part.is_(None))
    in_trees = (
        select(FileRow.blob_id)
        .join(RefRow, RefRow.commit_id == FileRow.commit_id)
        .where(RefRow.repo_id == repo.id)
    )
    rows = session.execute(
        select(BlobRow.sha256, BlobRow.size).where(
            BlobRow.sha256.in_(list(sha256s)), or_(BlobRow.id.in_(sent), BlobRow.id.in_(in_trees))
        )
    )
    return {sha256: Blob(sha256, size) for sha256, size in rows}


def only_its_own(session: Session, repo: RepoRow, sha256s: Iterable[str]) -> list[str]:
    """Those of the blobs that `repo` was sent and nobody else has uploaded since."""
    mine = (
        select(BlobRow.sha256)
        .join(SentRow, SentRow.blob_id == BlobRow.id)
        .where(SentRow.repo_id == repo.id, SentRow.sent >= BlobRow.stored, BlobRow.sha256.in_(list(sha256s)))
    )
    return [*session.scalars(mine)]


def in_history(session: Session, repo: RepoRow, sha256s: Iterable[str]) -> dict[str, Blob]:
    """Those of the blobs that any commit of `repo` names."""
    named = (
        select(FileRow.blob_id)
        .join(CommitRow, CommitRow.id == FileRow.commit_id)
        .where(FileRow.blob_id == BlobRow.id, CommitRow.repo_id == repo.id)
    )
    rows = session.execute(
        select(BlobRow.sha256, BlobRow.size).where(BlobRow.sha256.in_(list(sha256s)), named.exists())
    )
    return {sha256: Blob(sha256, size) for sha256, size in rows}


def forget(session: Session, repo: RepoRow, sha256s: Iterable[str]) -> None:
    """Let `repo` have been sent those blobs no longer."""
    keys = list(blob_ids(session, sha256s).values())
    session.execute(delete(SentRow).where(SentRow.repo_id == repo.id, SentRow.blob_id.in_(keys)))
