"""LFS: which large files a client has to upload, and where to; where from it downloads them. Bytes: `lfs_transfer_api`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from adapthub.adapters.admission import MAX_BYTES, WEIGHTS
from adapthub.adapters.errors import InvalidSettings
from adapthub.hub import quotas, uploads
from adapthub.hub.access import Caller, check_gate, readable_repo, writable_repo
from adapthub.hub.reference import Reference
from adapthub.hub.server.dependencies import Target, TheCaller, TheServing, origin
from adapthub.hub.server.lfs_urls import COMPLETION, DOWNLOAD, UPLOAD, Addresses
from adapthub.hub.server.said import Said
from adapthub.hub.server.serving import Serving
from adapthub.hub.trees import Blob

router = APIRouter(tags=["uploads"])

_CONTENT = "application/vnd.git-lfs+json"
_MOST_OBJECTS = 1000


class Object(Said):
    """A file: its sha256 in hex and its size in bytes."""

    oid: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class Batch(Said):
    """Files to upload or download, and how the client can."""

    operation: str
    objects: list[Object]
    transfers: tuple[str, ...] = ("basic",)
    hash_algo: str = "sha256"


@router.post("/{namespace}/{name}.git/info/lfs/objects/batch")
def batch(
    target: Target, body: Batch, request: Request, response: Response, serving: TheServing, caller: TheCaller
) -> dict[str, Any]:
    """Where each file is to be uploaded, but for those that the repository was sent already; or downloaded from."""
    if body.operation not in ("upload", "download") or body.hash_algo != "sha256":
        raise InvalidSettings(
            "LFS is for uploads and downloads by sha256 here", hint="Download files by resolve."
        )
    if len(body.objects) > _MOST_OBJECTS:
        raise InvalidSettings(
            f"{len(body.objects)} objects are too many", hint=f"Send {_MOST_OBJECTS} at once."
        )
    response.headers["Content-Type"] = _CONTENT
    server, holder = origin(request), caller.token
    addresses = [Addresses(serving.signer, server, target, one.oid, one.size, holder) for one in body.objects]
    if body.operation == "download":
        readable = _readable(serving, caller, target, body.objects)
        objects = [_download(one, readable.get(one.oid)) for one in addresses]
        return {"transfer": "basic", "objects": objects}
    known = _uploaded(serving, caller, target, body.objects)
    in_parts = "multipart" in body.transfers and any(
        one.size > serving.limits.part_bytes for one in addresses
    )
    return {
        "transfer": "multipart" if in_parts else "basic",
        "objects": [
            _upload(one, known.get(one.oid), serving.limits.part_bytes if in_parts else None)
            for one in addresses
        ],
    }


@router.post("/{namespace}/{name}.git/info/lfs/objects/verify")
def verify(target: Target, body: Object, serving: TheServing, caller: TheCaller) -> Response:
    """Whether a file came whole."""
    with serving.store.database.reading() as session:
        repo = writable_repo(session, caller, target)
        blob = uploads.held(session, repo, [body.oid]).get(body.oid)
    if blob is None or blob.size != body.size:
        raise InvalidSettings(f"{body.oid} was not uploaded with {body.size} bytes", hint="Upload it again.")
    return Response()


def _uploaded(serving: Serving, caller: Caller, target: Reference, objects: list[Object]) -> dict[str, Blob]:
    """Those of the files that need no upload. Raises Forbidden where there is no room for the others."""
    with serving.store.database.reading() as session:
        repo = writable_repo(session, caller, target)
        found = uploads.held(session, repo, [one.oid for one in objects])
        missing = [Blob(one.oid, one.size) for one in objects if one.oid not in found]
        quotas.check(session, target.namespace, missing)
    known = {oid: blob for oid, blob in found.items() if serving.store.blobs.size(oid) == blob.size}
    serving.store.register(known.values())  # they were asked for: they are not garbage now
    return known


def _readable(serving: Serving, caller: Caller, target: Reference, objects: list[Object]) -> dict[str, Blob]:
    with serving.store.database.reading() as session:
        repo = readable_repo(session, caller, target)
        check_gate(session, caller, repo)
        return uploads.in_history(session, repo, [one.oid for one in objects])


def _download(one: Addresses, blob: Blob | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"oid": one.oid, "size": one.size}
    if blob is None or blob.size != one.size:
        message = f"{one.target.full_name} has no file {one.oid} of {one.size} bytes"
        return {**entry, "error": {"code": 404, "message": message}}
    action = {"href": one.of(DOWNLOAD), "header": {}, "expires_in": one.signer.seconds}
    return {**entry, "authenticated": True, "actions": {"download": action}}


def _upload(one: Addresses, known: Blob | None, part_bytes: int | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"oid": one.oid, "size": one.size}
    if known is not None:
        if known.size != one.size:
            message = f"{one.oid} has {known.size} bytes, not {one.size}"
            return {**entry, "error": {"code": 422, "message": message}}
        return entry
    if one.size > MAX_BYTES[WEIGHTS]:
        message = f"{one.size} bytes; at most {MAX_BYTES[WEIGHTS]} are kept"
        return {**entry, "error": {"code": 413, "message": message}}
    upload = {"href": one.of(UPLOAD), "header": {}, "expires_in": one.signer.seconds}
    if part_bytes is not None and one.size > part_bytes:
        parts = {str(number): url for number, url in enumerate(one.parts(part_bytes), start=1)}
        upload = {**upload, "href": one.of(COMPLETION), "header": {"chunk_size": str(part_bytes), **parts}}
    actions = {"upload": upload, "verify": {"href": one.verify, "header": {}}}
    return {**entry, "authenticated": True, "actions": actions}
