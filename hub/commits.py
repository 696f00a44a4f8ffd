"""Commits: changes of a branch that happen whole or not at all, each on the state that its author meant.

A commit is prepared against the end of its branch, which takes reading some of its files, and added only while that is still
the end; else it is prepared again, or refused where its author named the parent. One that is sent twice, because an answer
was lost, is found to be there. Blobs must be stored before (store).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from sqlalchemy import insert
from sqlalchemy.orm import Session

from adapthub.adapters.admission import SIGNATURE
from adapthub.adapters.errors import Conflict, InvalidSettings, NotFound, RevisionNotFound
from adapthub.hub import indexing, knowledge, quotas, repos, signatures
from adapthub.hub.access import check_still
from adapthub.hub.audit import MACHINE, Actor, Event
from adapthub.hub.events import happened, happened_together
from adapthub.hub.facts import is_unicode
from adapthub.hub.fitting import fit_of
from adapthub.hub.inspection import Inspected, card_of, inspect_tree
from adapthub.hub.lookup import require_repo
from adapthub.hub.reference import Reference
from adapthub.hub.revisions import head_of
from adapthub.hub.storage.dialects import insert_or_update
from adapthub.hub.storage.retrying import retried
from adapthub.hub.storage.tables import MAIN, CommitRow, FileRow, RefRow, RepoRow, VersionRow
from adapthub.hub.store import Store, blob_ids
from adapthub.hub.trees import Blob, Change, Delete, Put, Tree, changed, read_tree
from adapthub.hub.versions import newest_and_known, next_version

_ATTEMPTS = 16
_LONGEST_MESSAGE = 64 * 1024
_LONGEST_TITLE = 200


@dataclass(frozen=True)
class Proposal:
    """A commit that somebody wants: `changes` in order, the whole `message` (its first line is the title), who its `author`
    is and the prefix of their `token`, and the `parent` that they mean (40 hex digits), where they say so."""

    changes: Sequence[Change]
    message: str
    author: str | None = None
    parent: str | None = None
    token: str | None = None


@dataclass(frozen=True)
class Committed:
    """A commit on its branch. `version` is the number of the version that its tree is, if it is one; `repeated` where it was
    there already."""

    oid: str
    version: int | None
    repeated: bool = False


@dataclass(frozen=True)
class _Head:
    """The end of a branch as it was read: None and empty where the branch has no commit yet."""

    commit: CommitRow | None
    tree: Tree

    @property
    def oid(self) -> str | None:
        return None if self.commit is None else self.commit.oid


@retried
def commit(store: Store, reference: Reference, proposal: Proposal, branch: str = MAIN) -> Committed:
    """Add `proposal` to a branch of the repository `reference`.

    Raises AdapterNotFound, RevisionNotFound (no such branch), EntryNotFound (a file to delete), Conflict where the parent is
    no longer the end of the branch, ArtifactError where the tree is refused, InvalidSettings for blobs that were not stored,
    Forbidden where the namespace would hold more than it may, Unauthorized or Forbidden where the token may not write any
    more. Nothing is changed then.
    """
    _check_message(proposal.message)
    for _ in range(_ATTEMPTS):
        with store.database.reading() as session:
            repo = require_repo(session, reference)
            head = _read_head(session, repo, branch)
            known = _already(session, repo, head, proposal)
            if known is not None:
                return known
        if proposal.parent is not None and proposal.parent != head.oid:
            raise Conflict(
                f"{branch} of {reference.full_name} is at {head.oid}, no longer at {proposal.parent}",
                hint="Look at what changed, then commit again on top of it.",
            )
        tree = changed(head.tree, proposal.changes)
        inspected = _inspect(store, reference, tree)
        signed = signatures.is_signed(tree, inspected, store.read, where=reference.full_name)
        with store.database.writing() as session:
            repo = repos.require_locked(session, reference)
            check_still(session, proposal.token, repo.namespace)
            end = head_of(session, repo, branch)
            if (None if end is None else end.oid) == head.oid:
                new = [change.blob for change in proposal.changes if isinstance(change, Put)]
                quotas.reserve(session, repo.namespace, new)
                row = _add(session, repo, end, tree, proposal)
                _point(session, repo, branch, row)
                actor = Actor(proposal.author, proposal.token)
                signature = tree[SIGNATURE] if signed else None
                version = _follow(session, store, repo, branch, row, inspected, signature, actor)
                return Committed(row.oid, None if version is None else version.number)
    raise Conflict(
        f"{branch} of {reference.full_name} changes faster than this commit can be made",
        hint="Try again later.",
    )


def add_whole(
    session: Session,
    store: Store,
    repo: RepoRow,
    tree: Tree,
    inspected: Inspected,
    *,
    made: bool,
    message: str,
    actor: Actor = MACHINE,
) -> VersionRow:
    """Make `tree`, a whole adapter that `repo` does not hold yet, the end of main and the next version, in the caller's
    transaction, which has locked `repo`, or `made` it and not announced it. A model.sig in it is over its files: that is the
    caller's to know."""
    assert inspected.adapter is not None
    row = _add(session, repo, head_of(session, repo), tree, Proposal((), message, actor.account))
    _point(session, repo, MAIN, row)
    version = _follow(session, store, repo, MAIN, row, inspected, tree.get(SIGNATURE), actor, made=made)
    assert version is not None
    return version


def add_signature(
    session: Session,
    store: Store,
    repo: RepoRow,
    version: VersionRow,
    signature: Blob,
    actor: Actor = MACHINE,
) -> None:
    """Commit `signature`, which is over the version's files, as their model.sig, in the caller's transaction, which has
    locked `repo`: on main where that has these very files, else on no branch, after the version's commit. Raises Conflict
    where one that a key of the namespace made would be replaced by one that none made."""
    known = signatures.signature_of(session, version)
    if known is not None and known.sha256 == signature.sha256:
        return
    head = head_of(session, repo)
    on_main = {} if head is None else read_tree(session, head.id)
    tree = read_tree(session, version.id)
    is_head = signatures.digests_of(on_main) == signatures.digests_of(tree)
    proposal = Proposal((), f"Signature of v{version.number}", actor.account)
    parent = head if is_head else version.commit
    signed = {**(on_main if is_head else tree), SIGNATURE: signature}
    row = _add(session, repo, parent, signed, proposal)
    if is_head:
        _point(session, repo, MAIN, row)
        newest = repos.newest_version(session, repo)
        card = card_of(signed, store.read)
        indexing.index(session, repo, newest, card=card, metadata=repo.card, now=row.created)
    happened_together(session, actor, [_commit_event(repo, MAIN if is_head else None, row)])
    _attach(session, store, repo, version, row, signature, actor)


def begin(session: Session, repo: RepoRow, *, author: str | None) -> CommitRow:
    """The first commit of a repository that was made empty, so that everything in it has a revision."""
    row = _add(session, repo, None, {}, Proposal((), "initial commit", author))
    _point(session, repo, MAIN, row)
    return row


def begin_anew(
    session: Session, repo: RepoRow, branch: str, tree: Tree, *, message: str, author: str | None
) -> CommitRow:
    """Make a commit without a parent, of `tree`, the end of a branch; no version is made. The caller has locked `repo`."""
    _check_message(message)
    row = _add(session, repo, None, tree, Proposal((), message, author))
    _point(session, repo, branch, row)
    return row


def _read_head(session: Session, repo: RepoRow, branch: str) -> _Head:
    end = head_of(session, repo, branch)
    if end is None and branch != MAIN:
        raise RevisionNotFound(
            f"{repo.full_name} has no branch {branch[:120]}", hint="Make it first, or commit to main."
        )
    return _Head(end, {} if end is None else read_tree(session, end.id))


def _inspect(store: Store, reference: Reference, tree: Tree) -> Inspected:
    inspected = inspect_tree(tree, store.read, where=reference.full_name)
    if inspected.adapter is None:
        return inspected
    return replace(inspected, fit=fit_of(store, inspected.adapter))


def _already(session: Session, repo: RepoRow, head: _Head, proposal: Proposal) -> Committed | None:
    """The end of the branch, where it is this very commit, or where this one would change nothing."""
    if head.commit is None:
        return None
    changes_nothing = proposal.parent in (None, head.oid) and _gives(head.tree, proposal, head.tree)
    if not (changes_nothing or _is_sent_again(session, head.commit, head.tree, proposal)):
        return None
    version = session.get(VersionRow, head.commit.id)
    return Committed(head.commit.oid, None if version is None else version.number, repeated=True)


def _is_sent_again(session: Session, commit: CommitRow, tree: Tree, proposal: Proposal) -> bool:
    """Whether `commit`, of `tree`, is what `proposal` came to when it was sent before."""
    if (commit.message, commit.author) != (proposal.message, proposal.author):
        return False
    gone = {change.path for change in proposal.changes if isinstance(change, Delete)}
    last = {change.path: change.blob.sha256 for change in proposal.changes if isinstance(change, Put)}
    if not gone and last.items() - _contents(tree).items():
        return False  # as nearly always: what it brings is not there
    parent = None if commit.parent_id is None else session.get(CommitRow, commit.parent_id)
    if proposal.parent not in (None, commit.oid, None if parent is None else parent.oid):
        return False
    return _gives({} if parent is None else read_tree(session, parent.id), proposal, tree)


def _gives(tree: Tree, proposal: Proposal, wanted: Tree) -> bool:
    try:
        return _contents(changed(tree, proposal.changes)) == _contents(wanted)
    except NotFound:
        return False


def _contents(tree: Tree) -> dict[str, str]:
    return {path: blob.sha256 for path, blob in tree.items()}


def _add(
    session: Session, repo: RepoRow, parent: CommitRow | None, tree: Tree, proposal: Proposal
) -> CommitRow:
    now = datetime.now(UTC)
    row = CommitRow(
        repo_id=repo.id,
        oid=_oid(repo, parent, tree, proposal, now),
        parent_id=None if parent is None else parent.id,
        author=proposal.author,
        message=proposal.message,
        created=now,
    )
    session.add(row)
    session.flush()
    keys = blob_ids(session, {blob.sha256 for blob in tree.values()})
    lost = [path for path, blob in tree.items() if blob.sha256 not in keys]
    if lost:
        raise InvalidSettings(
            f"{lost[0]} was not uploaded: this hub has no bytes {tree[lost[0]].sha256}",
            hint="Upload it again.",
        )
    if tree:
        session.execute(
            # Or those without a sha1 would take a statement of their own.
            insert(FileRow).execution_options(render_nulls=True),
            [
                {"commit_id": row.id, "path": path, "blob_id": keys[blob.sha256], "sha1": blob.sha1}
                for path, blob in tree.items()
            ],
        )
    return row


def _point(session: Session, repo: RepoRow, branch: str, row: CommitRow) -> None:
    ref = {"repo_id": repo.id, "name": branch, "is_tag": False, "commit_id": row.id, "message": ""}
    insert_or_update(session, RefRow, [ref], key=["repo_id", "name"], changed=["commit_id"])


def _follow(
    session: Session,
    store: Store,
    repo: RepoRow,
    branch: str,
    row: CommitRow,
    inspected: Inspected,
    signature: Blob | None,
    actor: Actor,
    *,
    made: bool = False,
) -> VersionRow | None:
    """What follows from a commit: a version where it is one; what lists show, where it is on main; a version's
    `signature`."""
    adapter = inspected.adapter
    newest, known = newest_and_known(session, repo, None if adapter is None else adapter.digest)
    version = None
    if branch == MAIN:
        if adapter is not None and known is None:
            newest = version = next_version(session, repo, row, adapter, newest)
        indexing.index(
            session, repo, newest, card=inspected.card, metadata=inspected.metadata, now=row.created
        )
        if version is not None and adapter is not None:
            knowledge.record(session, version, adapter, inspected.fit)
    # From here on others that write to the log wait: whatever they may insert too is inserted.
    events = [repos.made_event(repo)] if made else []
    events.append(_commit_event(repo, branch, row))
    if version is not None:
        detail = {"version": version.number, "digest": version.digest}
        events.append(Event("version", repo=repo.full_name, detail=detail))
    happened_together(session, actor, events)
    signed = version or known
    if signed is not None and signature is not None:
        _attach(session, store, repo, signed, row, signature, actor)
    return version


def _commit_event(repo: RepoRow, branch: str | None, row: CommitRow) -> Event:
    title = row.message.partition("\n")[0][:_LONGEST_TITLE]
    detail = {"commit": row.oid, "branch": branch, "title": title}
    return Event("commit", repo=repo.full_name, detail=detail)


def _attach(
    session: Session,
    store: Store,
    repo: RepoRow,
    version: VersionRow,
    row: CommitRow,
    signature: Blob,
    actor: Actor,
) -> None:
    if signatures.attach(session, store, version, row, signature):
        happened(
            session,
            actor,
            "signature",
            repo=repo.full_name,
            version=version.number,
            commit=row.oid,
            sha256=signature.sha256,
        )


def _oid(repo: RepoRow, parent: CommitRow | None, tree: Tree, proposal: Proposal, now: datetime) -> str:
    identity = [
        repo.id,
        None if parent is None else parent.oid,
        sorted((path, blob.sha256) for path, blob in tree.items()),
        proposal.author,
        proposal.message,
        now.isoformat(),
    ]
    return hashlib.sha1(json.dumps(identity).encode(), usedforsecurity=False).hexdigest()


def _check_message(message: str) -> None:
    if not is_unicode(message):
        raise InvalidSettings("the message is not valid Unicode text")
    if len(message) > _LONGEST_MESSAGE:
        raise InvalidSettings(f"the message has more than {_LONGEST_MESSAGE} characters")
