"""LFS: where to upload large files to, and the upload itself. The client's token is not sent with the bytes, so the address
that they go to is signed.

Basic transfers only; whoever asks for other ones is told that these are basic.
"""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from adapthub.adapters.admission import MAX_BYTES, WEIGHTS
from adapthub.adapters.errors import InvalidSettings
from adapthub.hub.access import writable_repo
from adapthub.hub.reference import Reference
from adapthub.hub.server.bodies import too_large
from adapthub.hub.server.dependencies import Target, TheCaller, TheServing, origin
from adapthub.hub.server.serving import Serving
from adapthub.hub.storage.blobs import PIECE_BYTES, Incoming
from adapthub.hub.trees import Blob

router = APIRouter(tags=["uploads"])

PURPOSE = "lfs upload"
_CONTENT = "application/vnd.git-lfs+json"
_MOST_OBJECTS = 1000
_SIGNED: tuple[str, ...] = ("size", "expires", "signature")
Sha256 = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]


class Object(BaseModel):
    """A file to upload."""

    oid: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class Batch(BaseModel):
    """Files to upload, and how the client can."""

    operation: str
    objects: list[Object]
    transfers: list[str] = ["basic"]
    hash_algo: str = "sha256"


@router.post("/{namespace}/{name}.git/info/lfs/objects/batch")
def batch(
    target: Target, body: Batch, request: Request, response: Response, serving: TheServing, caller: TheCaller
) -> dict[str, Any]:
    """Where each file is to be uploaded; those that are here already need not be."""
    if body.operation != "upload" or body.hash_algo != "sha256":
        raise InvalidSettings("LFS is for uploads by sha256 here", hint="Download files by resolve.")
    if len(body.objects) > _MOST_OBJECTS:
        raise InvalidSettings(
            f"{len(body.objects)} objects are too many", hint=f"Send {_MOST_OBJECTS} at once."
        )
    with serving.store.database.reading() as session:
        writable_repo(session, caller, target)
    known = serving.store.known(one.oid for one in body.objects)
    serving.store.register(known.values())  # they were asked for: they are not garbage now
    response.headers["Content-Type"] = _CONTENT
    return {
        "transfer": "basic",
        "objects": [
            _answer(one, known.get(one.oid), target, origin(request), serving) for one in body.objects
        ],
    }


@router.put("/{namespace}/{name}.git/info/lfs/objects/{oid}")
async def upload(target: Target, oid: Sha256, request: Request, serving: TheServing) -> Response:
    """The bytes of one file, whoever sends them: the address was signed for them."""
    parameters = dict(request.query_params)
    signed = {key: parameters[key] for key in _SIGNED if key in parameters}
    serving.signer.check(PURPOSE, {**signed, "repo": target.full_name, "oid": oid})
    size = int(signed["size"])
    incoming = await run_in_threadpool(serving.store.blobs.incoming)
    try:
        await receive(request, incoming, size)
        await run_in_threadpool(incoming.keep, oid, origin="the upload")
    finally:
        await run_in_threadpool(incoming.close)
    await run_in_threadpool(serving.store.register, [Blob(oid, size)])
    return Response()


@router.post("/{namespace}/{name}.git/info/lfs/objects/verify")
def verify(target: Target, body: Object, serving: TheServing, caller: TheCaller) -> Response:
    """Whether a file came whole."""
    with serving.store.database.reading() as session:
        writable_repo(session, caller, target)
    blob = serving.store.known([body.oid]).get(body.oid)
    if blob is None or blob.size != body.size:
        raise InvalidSettings(f"{body.oid} was not uploaded with {body.size} bytes", hint="Upload it again.")
    return Response()


def _answer(
    one: Object, known: Blob | None, target: Reference, server: str, serving: Serving
) -> dict[str, Any]:
    entry: dict[str, Any] = {"oid": one.oid, "size": one.size}
    if known is not None:
        if known.size != one.size:
            message = f"{one.oid} has {known.size} bytes, not {one.size}"
            return {**entry, "error": {"code": 422, "message": message}}
        return entry
    if one.size > MAX_BYTES[WEIGHTS]:
        message = f"{one.size} bytes; at most {MAX_BYTES[WEIGHTS]} are kept"
        return {**entry, "error": {"code": 413, "message": message}}
    root = f"{server}/{target.full_name}.git/info/lfs/objects"
    seconds = serving.limits.upload_seconds
    values = {"size": str(one.size), "repo": target.full_name, "oid": one.oid}
    signed = serving.signer.sign(PURPOSE, values, seconds)
    query = urlencode({key: signed[key] for key in _SIGNED})
    return {
        **entry,
        "authenticated": True,
        "actions": {
            "upload": {"href": f"{root}/{one.oid}?{query}", "header": {}, "expires_in": seconds},
            "verify": {"href": f"{root}/verify", "header": {}},
        },
    }


async def receive(request: Request, incoming: Incoming, size: int) -> None:
    """Write the body piece by piece. Raises HTTPException 413 where it is larger than `size`, InvalidSettings where it ended
    before."""
    waiting = bytearray()
    async for piece in request.stream():
        waiting += piece
        if incoming.size + len(waiting) > size:
            raise too_large(size)
        if len(waiting) >= PIECE_BYTES:
            await run_in_threadpool(incoming.write, bytes(waiting))
            waiting.clear()
    await run_in_threadpool(incoming.write, bytes(waiting))
    if incoming.size != size:
        raise InvalidSettings(f"{incoming.size} of {size} bytes came", hint="Upload the file again.")
