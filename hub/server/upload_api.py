"""Uploads: which files go how, and the commit that makes them appear. Large files come by LFS (lfs_api) or Xet before it."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, ValidationError
from starlette.concurrency import run_in_threadpool

from adapthub.adapters.errors import InvalidSettings
from adapthub.adapters.files import sha256_bytes
from adapthub.hub import commits, quotas, uploads
from adapthub.hub.access import Caller, writable_repo
from adapthub.hub.lookup import require_repo
from adapthub.hub.paths import check_path
from adapthub.hub.reference import Reference
from adapthub.hub.revisions import require_commit
from adapthub.hub.server.bodies import read_body
from adapthub.hub.server.dependencies import Revision, Target, TheCaller, TheServing, origin
from adapthub.hub.server.said import Said
from adapthub.hub.server.serving import Serving
from adapthub.hub.text_files import SAMPLE_BYTES, is_text
from adapthub.hub.trees import Blob, Change, Delete, Put, git_oid, read_tree

router = APIRouter(prefix="/api/models/{namespace}/{name}", tags=["uploads"])

_EMPTY = Blob("0" * 64, 0)
_MOST_FILES = 256  # that clients ask about at once
_MOST_CHANGES = 10_000


class Upload(Said):
    """A file that somebody is about to upload: its `size` in bytes and the base64 of its beginning."""

    path: str
    size: int = Field(ge=0)
    sample: str = ""


class Uploads(Said):
    """Files that somebody is about to upload."""

    files: list[Upload]


class Header(BaseModel):
    """What a commit says of itself."""

    summary: str
    description: str = ""
    parentCommit: str | None = None


class TextFile(BaseModel):
    """A file that came with its commit."""

    path: str
    content: str
    encoding: str = "base64"


class LfsFile(BaseModel):
    """A file that was uploaded before."""

    path: str
    oid: str
    algo: str = "sha256"
    size: int | None = None


class Gone(BaseModel):
    """A file or folder to delete."""

    path: str


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
        # What is as long as before may be what it was.
        new = [upload.size for upload in body.files if tree.get(upload.path, _EMPTY).size != upload.size]
        quotas.check_bytes(session, target.namespace, sum(new))
    return {"files": [_mode(upload, tree.get(upload.path)) for upload in body.files]}


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
    body = await read_body(request, serving.limits.commit_bytes)
    made = await run_in_threadpool(_commit, serving, caller, target, revision, body)
    return {
        "success": True,
        "commitOid": made.oid,
        "commitUrl": f"{origin(request)}/{target.full_name}/commit/{made.oid}",
        "hookOutput": "" if made.version is None else f"This is v{made.version} of {target.full_name}.",
    }


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
    serving: Serving, caller: Caller, target: Reference, branch: str, body: bytes
) -> commits.Committed:
    header, changes = _read(serving, target, body)
    message = f"{header.summary}\n\n{header.description}" if header.description else header.summary
    proposal = commits.Proposal(changes, message, caller.account, header.parentCommit, caller.token)
    return commits.commit(serving.store, target, proposal, branch.removeprefix("refs/heads/"))


def _read(serving: Serving, target: Reference, body: bytes) -> tuple[Header, list[Change]]:
    """The commit's header, and its changes, whose texts are stored."""
    header: Header | None = None
    parsed: list[Any] = []
    for key, value in _lines(body):
        try:
            match key:
                case "header":
                    header = Header.model_validate(value)
                case "file":
                    parsed.append(TextFile.model_validate(value))
                case "lfsFile":
                    parsed.append(LfsFile.model_validate(value))
                case "deletedFile" | "deletedFolder":
                    path = Gone.model_validate(value).path.strip("/")
                    parsed.append(Delete(path, folder=key == "deletedFolder"))
                case _:
                    raise InvalidSettings(f"a commit has no lines of the key {key!r}")
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise InvalidSettings(f"a line {key!r} of the commit: {where}: {first['msg']}") from error
        if len(parsed) > _MOST_CHANGES:
            raise InvalidSettings(f"the commit has more than {_MOST_CHANGES} changes")
    if header is None:
        raise InvalidSettings("the commit has no line of the key 'header'")
    return header, _stored(serving, target, parsed)


def _lines(body: bytes) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(body.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InvalidSettings(f"line {number} of the commit is not JSON") from error
        if not isinstance(document, dict) or not isinstance(document.get("key"), str):
            raise InvalidSettings(f"line {number} of the commit is not an object with a key and a value")
        yield document["key"], document.get("value")


def _stored(serving: Serving, target: Reference, parsed: list[Any]) -> list[Change]:
    """The changes, once the texts among them are stored and what came before is found to have come for `target`."""
    texts = {one.path: _decoded(one) for one in parsed if isinstance(one, TextFile) and check_path(one.path)}
    lfs = {one.oid for one in parsed if isinstance(one, LfsFile) and _is_sha256(one)}
    with serving.store.database.reading() as session:
        sent = uploads.held(session, require_repo(session, target), lfs)
        blobs = {data: Blob(sha256_bytes(data), len(data), git_oid(data)) for data in texts.values()}
        quotas.check(session, target.namespace, blobs.values())
    for path, data in texts.items():
        serving.store.blobs.put(blobs[data].sha256, data, origin=path)
    serving.store.register([*blobs.values(), *sent.values()])
    known = serving.store.known({blob.sha256 for blob in blobs.values()})
    changes: list[Change] = []
    for one in parsed:
        match one:
            case TextFile():
                changes.append(Put(one.path, known[blobs[texts[one.path]].sha256]))
            case LfsFile():
                changes.append(Put(check_path(one.path), _uploaded(one, sent)))
            case _:
                changes.append(one)
    return changes


def _decoded(file: TextFile) -> bytes:
    if file.encoding != "base64":
        return file.content.encode(errors="replace")
    try:
        return base64.b64decode(file.content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidSettings(f"the content of {file.path} is not base64") from error


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
