"""Uploads: which files go how, and the commit that makes them appear. Large files come by LFS (lfs_api) or Xet before it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import IO, Any

from fastapi import APIRouter, Request, Response
from pydantic import Field
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from adapthub.adapters.errors import InvalidSettings
from adapthub.adapters.files import sha256_bytes
from adapthub.hub import commits, quotas, uploads
from adapthub.hub.access import Caller, writable_repo
from adapthub.hub.lookup import require_repo
from adapthub.hub.paths import check_path
from adapthub.hub.reference import Reference
from adapthub.hub.revisions import require_commit
from adapthub.hub.server import ignoring
from adapthub.hub.server.commit_bodies import Header, LfsFile, read_commit
from adapthub.hub.server.dependencies import Revision, Target, TheCaller, TheServing, origin
from adapthub.hub.server.receiving import run_with, spooled
from adapthub.hub.server.said import Said
from adapthub.hub.server.serving import Serving
from adapthub.hub.store import Store
from adapthub.hub.text_files import SAMPLE_BYTES, is_text
from adapthub.hub.trees import Blob, Change, Put, Tree, git_oid, read_tree

router = APIRouter(prefix="/api/models/{namespace}/{name}", tags=["uploads"])

_EMPTY = Blob("0" * 64, 0)
_MOST_FILES = 256  # that clients ask about at once
_UNCHECKED_BYTES = 4 * 2**20


class Upload(Said):
    """A file that somebody is about to upload: its `size` in bytes and the base64 of its beginning."""

    path: str
    size: int = Field(ge=0)
    sample: str = ""


class Uploads(Said):
    """Files that somebody is about to upload; `gitIgnore`: which not, in place of what the repository has of that."""

    files: list[Upload]
    gitIgnore: str | None = None


@router.post("/preupload/{revision}")
def preupload(
    target: Target, revision: Revision, body: Uploads, serving: TheServing, caller: TheCaller
) -> dict[str, Any]:
    """How each file shall come; `oid` of what is there already lets a client leave out what it would not change."""
    if len(body.files) > _MOST_FILES:
        raise InvalidSettings(f"{len(body.files)} files at once are too many", hint=f"Ask for {_MOST_FILES}.")
    with serving.store.database.reading() as session:
        repo = writable_repo(session, caller, target)
        tree = read_tree(session, require_commit(session, repo, revision).id)
        text = body.gitIgnore if body.gitIgnore is not None else _gitignore(serving, tree)
        out = ignoring.ignored(text, [upload.path for upload in body.files])
        coming = [upload for upload in body.files if upload.path not in out]
        # What is as long as before may be what it was.
        new = [upload.size for upload in coming if tree.get(upload.path, _EMPTY).size != upload.size]
        quotas.check_bytes(session, target.namespace, sum(new))
    return {
        "files": [
            {"path": upload.path, "uploadMode": "regular", "shouldIgnore": True}
            if upload.path in out
            else _mode(upload, tree.get(upload.path))
            for upload in body.files
        ]
    }


@router.get("/xet-write-token/{revision}")
def xet_write_token(
    target: Target,
    revision: Revision,
    request: Request,
    response: Response,
    serving: TheServing,
    caller: TheCaller,
) -> dict[str, str | int]:
    """Where to upload large files by Xet, with what, and until when: in headers and in the body, for clients read either."""
    with serving.store.database.reading() as session:
        writable_repo(session, caller, target)
    assert caller.token is not None
    grant = serving.xet.grant(target.full_name, caller.token, origin(request))
    response.headers.update(grant.headers)
    return grant.body


@router.post("/commit/{revision}")
async def commit(
    target: Target, revision: Revision, request: Request, serving: TheServing, caller: TheCaller
) -> dict[str, Any]:
    """Change the files of a branch, all at once or not at all."""
    if request.query_params.get("create_pr") in ("1", "true"):
        raise InvalidSettings("this hub has no pull requests", hint="Commit to a branch of your own.")

    def may() -> None:
        with serving.store.database.reading() as session:
            writable_repo(session, caller, target)

    await run_in_threadpool(may)  # before anything of the body is read
    async with spooled(request, serving.limits.commit_bytes) as body:
        made = await run_with(serving, body, _commit, serving, caller, target, revision, body.lines)
    return {
        "success": True,
        "commitOid": made.oid,
        "commitUrl": f"{origin(request)}/{target.full_name}/commit/{made.oid}",
        "hookOutput": "" if made.version is None else f"This is v{made.version} of {target.full_name}.",
    }


def _gitignore(serving: Serving, tree: Tree) -> str:
    blob = tree.get(ignoring.NAME)
    if blob is None or blob.size > ignoring.MAX_BYTES:
        return ""
    return serving.store.read(blob, 0, blob.size).decode(errors="replace")


def _mode(upload: Upload, there: Blob | None) -> dict[str, Any]:
    check_path(upload.path)
    try:
        sample = base64.b64decode(upload.sample[: 2 * SAMPLE_BYTES])
    except ValueError as error:
        raise InvalidSettings(f"the sample of {upload.path} is not base64") from error
    mode = "regular" if is_text(upload.path, upload.size, sample) else "lfs"
    if there is not None and there.size == upload.size and mode == ("lfs" if there.is_lfs else "regular"):
        return {"path": upload.path, "uploadMode": mode, "shouldIgnore": False, "oid": there.etag}
    return {"path": upload.path, "uploadMode": mode, "shouldIgnore": False}


def _commit(
    serving: Serving, caller: Caller, target: Reference, branch: str, lines: IO[bytes]
) -> commits.Committed:
    header, changes = _read(serving, target, lines)
    message = f"{header.summary}\n\n{header.description}" if header.description else header.summary
    proposal = commits.Proposal(changes, message, caller.account, header.parentCommit, caller.token)
    return commits.commit(serving.store, target, proposal, branch.removeprefix("refs/heads/"))


def _read(serving: Serving, target: Reference, lines: IO[bytes]) -> tuple[Header, list[Change]]:
    """The commit's header, and its changes, once the texts among them are stored and what came before is found to have come
    for `target`."""
    texts = _Texts(serving.store, target.namespace)
    body = read_commit(lines, texts.keep, serving.large_text)
    lfs = {one.oid for one in body.changes if isinstance(one, LfsFile) and _is_sha256(one)}
    with serving.store.database.reading() as session:
        sent = uploads.held(session, require_repo(session, target), lfs)
        texts.check(session)
    serving.store.register([*texts.kept.values(), *sent.values()])
    changes: list[Change] = []
    for one in body.changes:
        match one:
            case LfsFile():
                changes.append(Put(check_path(one.path), _uploaded(one, sent)))
            case _:
                changes.append(one)
    return body.header, changes


class _Texts:
    """The texts of one commit, stored as they are read. There is to be room for them: that is asked before every so many
    bytes, so that no more than that is stored in vain."""

    def __init__(self, store: Store, namespace: str) -> None:
        self._store = store
        self._namespace = namespace
        self._unchecked = 0
        self.kept: dict[str, Blob] = {}

    def keep(self, path: str, data: bytes) -> Blob:
        """Store the bytes of a file. Raises Forbidden, StorageError."""
        blob = Blob(sha256_bytes(data), len(data), git_oid(data))
        self.kept[blob.sha256] = blob
        self._unchecked += len(data)
        if self._unchecked > _UNCHECKED_BYTES:
            with self._store.database.reading() as session:
                self.check(session)
        self._store.blobs.put(blob.sha256, data, origin=path)
        return blob

    def check(self, session: Session) -> None:
        """Raises Forbidden where the namespace would hold more than it may."""
        quotas.check(session, self._namespace, self.kept.values())
        self._unchecked = 0


def _is_sha256(file: LfsFile) -> bool:
    digits = len(file.oid) == 64 and all(char in "0123456789abcdef" for char in file.oid)
    if file.algo != "sha256" or not digits:
        raise InvalidSettings(f"{file.path[:200]!r} is not named by a sha256 in lower-case hex")
    return True


def _uploaded(file: LfsFile, sent: Mapping[str, Blob]) -> Blob:
    blob = sent.get(file.oid)
    if blob is None:
        raise InvalidSettings(
            f"{file.path} was not uploaded to this repository: it was sent no bytes {file.oid}",
            hint="Upload it again.",
        )
    if file.size is not None and file.size != blob.size:
        raise InvalidSettings(f"{file.path} has {blob.size} bytes, not {file.size}")
    return blob
