"""Signatures of versions: the file model.sig in a tree whose other files are the version's.

It is no part of the digest, so a version may be signed when it is pushed or later: a commit that adds model.sig to a
version's files, on any branch, makes no new version, and its tree is from then on what the version's number, its aliases
and its digest mean (revisions). The newest counts, but for one that none of the namespace's keys made: it does not take the
place of one that they did. One over other files than lie beside it counts for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from adapthub.adapters.admission import IGNORED, MAX_BYTES, SIGNATURE
from adapthub.adapters.errors import Conflict, SignatureError
from adapthub.hub.inspection import Inspected, Read
from adapthub.hub.namespace_keys import keys_of
from adapthub.hub.storage.governance_tables import SignatureRow
from adapthub.hub.storage.tables import CommitRow, VersionRow
from adapthub.hub.store import Store, blob_ids
from adapthub.hub.trees import Blob, Tree, read_tree


def is_signed(tree: Tree, inspected: Inspected, read: Read, *, where: str) -> bool:
    """Whether `tree` is a whole adapter with a signature of exactly its files."""
    blob = tree.get(SIGNATURE)
    if inspected.adapter is None or blob is None or blob.size > MAX_BYTES[SIGNATURE]:
        return False
    from adapthub.hub import signing

    try:
        signing.check_is_of(read(blob, 0, blob.size), digests_of(tree), where)
    except SignatureError:
        return False
    return True


def attach(session: Session, store: Store, version: VersionRow, commit: CommitRow, blob: Blob) -> bool:
    """Let `blob`, which `commit` has as its model.sig, be the version's signature. Whether it was not that already.

    Raises Conflict where a key of the namespace made the one that there is, and none made this one.
    """
    key = blob_ids(session, [blob.sha256])[blob.sha256]
    row = session.get(SignatureRow, version.id)
    if row is None:
        session.add(SignatureRow(version_id=version.id, commit_id=commit.id, blob_id=key))
    elif row.blob_id != key:
        there = Blob(row.blob.sha256, row.blob.size)
        if _is_believed(session, store, version, there) and not _is_believed(session, store, version, blob):
            raise Conflict(
                f"v{version.number} of {version.repo.full_name} is signed by a key of {version.repo.namespace}, and this"
                " signature is not",
                hint="Sign it with a key of adapt hub key list, or leave model.sig as it is.",
            )
        row.commit_id, row.blob_id = commit.id, key
    else:
        return False
    session.flush()
    return True


def signed_commit(session: Session, version_id: int) -> CommitRow | None:
    """The commit that has the version's files and its signature, if it has one."""
    row = session.get(SignatureRow, version_id)
    return None if row is None else row.commit


def signature_of(session: Session, version: VersionRow) -> Blob | None:
    """The version's model.sig, if it has one."""
    row = session.get(SignatureRow, version.id)
    return None if row is None else Blob(row.blob.sha256, row.blob.size)


def files_of_version(session: Session, version: VersionRow) -> dict[str, Blob]:
    """The files that a version's digest is over, and so its signature."""
    tree = read_tree(session, version.id)
    return {path: tree[path] for path in digests_of(tree)}


def digests_of(tree: Tree) -> Mapping[str, str]:
    """sha256 by path of the files of `tree` that a digest and a signature are over."""
    return {path: blob.sha256 for path, blob in tree.items() if path.partition("/")[0] not in IGNORED}


def _is_believed(session: Session, store: Store, version: VersionRow, blob: Blob) -> bool:
    """Whether a key of the version's namespace made the signature `blob` of it."""
    from adapthub.hub import signing

    files = digests_of(files_of_version(session, version))
    keys = keys_of(session, version.repo.namespace)
    try:
        signing.verify(store.read(blob, 0, blob.size), files, keys, f"v{version.number}")
    except SignatureError:
        return False
    return True


def version_of_commit(session: Session, commit: CommitRow) -> VersionRow | None:
    """The version that a commit is, or is the signed form of."""
    signed = select(SignatureRow.version_id).where(SignatureRow.commit_id == commit.id)
    return session.get(VersionRow, session.scalar(signed) or commit.id)
