"""The facade's addresses. What clients try first and this hub does not offer is answered with 404: they then use the rest.

The application has the facade in `app.state.xet`, and maps errors to answers, as for all its routes.
"""

from __future__ import annotations

from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Request

from adapthub.adapters.errors import NotFound, Unauthorized
from adapthub.hub.server.xet.facade import XetFacade
from adapthub.hub.server.xet.receiving import receive
from adapthub.hub.server.xet.upload import Upload
from adapthub.web.authorization import bearer

# No part of the hub's own documented API: `XetFacade.grant` sends clients here.
router = APIRouter(prefix="/xet/{epoch}/{generation}", include_in_schema=False)


async def facade_of(request: Request) -> XetFacade:
    """The application's facade."""
    facade: XetFacade = request.app.state.xet
    return facade


TheFacade = Annotated[XetFacade, Depends(facade_of)]


def upload_of(request: Request, facade: TheFacade, epoch: str, generation: str) -> Upload:
    """The upload that a request belongs to, before its body is read. Raises Unauthorized, Forbidden, NotFound."""
    token = bearer(request.headers)
    if token is None:
        raise Unauthorized("an upload needs its access token", hint="Send it as Authorization: Bearer.")
    return facade.admit(token, epoch, generation)


TheUpload = Annotated[Upload, Depends(upload_of)]


@router.post("/v1/xorbs/default/{name}")
async def post_xorb(request: Request, facade: TheFacade, upload: TheUpload, name: str) -> dict[str, bool]:
    """Keep a xorb under its hash."""
    limits = facade.kept.limits
    with upload.receive_xorb(name) as xorb:
        await receive(request, xorb.write, limit=limits.xorb_bytes, seconds=limits.body_seconds)
        new = await run_sync(upload.keep_xorb, xorb, limiter=facade.xorb_workers)
    return {"was_inserted": new}


@router.post("/v1/shards")
async def post_shard(request: Request, facade: TheFacade, upload: TheUpload) -> dict[str, int]:
    """Store the files of a shard."""
    limits = facade.kept.limits
    with upload.receive() as body:
        await receive(request, body.write, limit=limits.shard_bytes, seconds=limits.body_seconds)
        await run_sync(upload.store_files, body, limiter=facade.shard_workers)
    return {"result": 1}  # SyncPerformed; clients make nothing of it


@router.api_route("/{rest:path}", methods=["GET", "HEAD", "POST", "PUT"])
async def not_offered(rest: str) -> None:
    """v1/chunks, v1/xorb-grants, v2/shards, reconstructions, and whatever clients come to try."""
    raise NotFound(f"this hub takes xorbs and shards over Xet, not {rest[:80]}", hint="Read files over HTTP.")
