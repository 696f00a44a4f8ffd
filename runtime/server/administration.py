"""What an administrator asks of a running server: adapters in and out of slots, aliases moved live, what there is, drain.

vLLM's two endpoints, with its shapes, so that what manages adapters there manages them here; and ours, which know the hub.
Releases are in a module of their own.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel, ConfigDict

from adapthub.adapters.errors import (
    AdaptHubError,
    ArtifactError,
    Conflict,
    InvalidInput,
    NotFound,
)
from adapthub.hub.reference import Reference
from adapthub.hub.registry import Version
from adapthub.runtime.server.catalog import Target
from adapthub.runtime.server.dependencies import TheAdmin, TheServing
from adapthub.runtime.server.errors import ERRORS, error_body
from adapthub.runtime.server.status import residents, status

router = APIRouter(tags=["administration"], responses=ERRORS)


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Model(_Body):
    """A name, a reference or an expression, as requests name it."""

    model: str


class Promotion(_Body):
    """`alias` is to point at what `ref` means now."""

    ref: str
    alias: str


class Rollback(_Body):
    """`alias` of the adapter `name` is to point at what it meant before."""

    name: str
    alias: str


class LoadLora(BaseModel):
    """vLLM's. `lora_path`: a folder of the server's machine, or a reference to the hub."""

    lora_name: str
    lora_path: str
    load_inplace: bool = False


class UnloadLora(BaseModel):
    """vLLM's."""

    lora_name: str


@router.get("/admin/status")
async def server_status(serving: TheServing, _: TheAdmin) -> dict[str, Any]:
    """The base, memory, load, queue, pages of keys and values, steps, uptime."""
    return await asyncio.to_thread(status, serving)


@router.get("/admin/adapters")
async def adapters(serving: TheServing, _: TheAdmin) -> dict[str, Any]:
    """Every registered adapter: in a slot, in host memory or on disk."""
    return {"adapters": residents(serving)}


@router.post("/admin/adapters/load")
async def load(body: Model, serving: TheServing, _: TheAdmin) -> dict[str, Any]:
    """Put what a model means now into slots; answers once it is there."""
    return _answer(await serving.catalog.load(body.model))


@router.post("/admin/adapters/unload")
async def unload(body: Model, serving: TheServing, _: TheAdmin) -> dict[str, Any]:
    """Free its slots and host memory, once nothing runs on it."""
    return _answer(await serving.catalog.unload(body.model))


@router.post("/admin/adapters/pin")
async def pin(body: Model, serving: TheServing, _: TheAdmin) -> dict[str, Any]:
    """Load it, and never evict it."""
    return _answer(await serving.catalog.pin(body.model))


@router.post("/admin/adapters/unpin")
async def unpin(body: Model, serving: TheServing, _: TheAdmin) -> dict[str, Any]:
    """Let it be evicted again."""
    return _answer(await serving.catalog.unpin(body.model))


@router.post("/admin/promote")
async def promote(body: Promotion, serving: TheServing, _: TheAdmin) -> dict[str, Any]:
    """Load what a reference means, then move an alias to it: requests that come from now on run on it."""
    found = await serving.catalog.resolve(Reference.parse(body.ref), fresh=True)
    pinned = f"{found.name}@v{found.number}"
    await serving.catalog.load(pinned)
    version = await asyncio.to_thread(serving.hub.promote, pinned, body.alias)
    serving.catalog.forget_resolved()
    return _moved(version, body.alias)


@router.post("/admin/rollback")
async def rollback(body: Rollback, serving: TheServing, _: TheAdmin) -> dict[str, Any]:
    """Move an alias back to what it meant before: requests that come from now on run on that."""
    version = await asyncio.to_thread(serving.hub.rollback, body.name, body.alias)
    serving.catalog.forget_resolved()
    return _moved(version, body.alias)


@router.post("/admin/drain")
async def drain(serving: TheServing, _: TheAdmin) -> dict[str, Any]:
    """Take no more requests, and answer when those in flight have ended, or the time for that is over. The process stays."""
    drained = await serving.drain()
    return {"drained": drained, "in_flight": serving.in_flight}


@router.post("/v1/load_lora_adapter", response_class=PlainTextResponse)
async def load_lora_adapter(body: LoadLora, serving: TheServing, _: TheAdmin) -> Response:
    """vLLM's: let `lora_name` be a model."""
    try:
        await serving.catalog.load_as(body.lora_name, body.lora_path, again=body.load_inplace)
    except AdaptHubError as error:
        return _as_vllm(error)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")


@router.post("/v1/unload_lora_adapter", response_class=PlainTextResponse)
async def unload_lora_adapter(body: UnloadLora, serving: TheServing, _: TheAdmin) -> Response:
    """vLLM's: let it be none any more; what runs on it ends in peace."""
    try:
        await serving.catalog.unload_as(body.lora_name)
    except AdaptHubError as error:
        return _as_vllm(error)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


def _answer(target: Target) -> dict[str, Any]:
    return {"model": target.model, "version": target.label}


def _moved(version: Version, alias: str) -> dict[str, Any]:
    return {
        "name": version.name,
        "alias": alias,
        "version": f"v{version.number}",
        "digest": version.digest,
    }


def _as_vllm(error: AdaptHubError) -> JSONResponse:
    """An error by vLLM's types and codes. Raises what is not the caller's fault."""
    if isinstance(error, NotFound):
        return JSONResponse(error_body(str(error), "NotFoundError", code=404), 404)
    if isinstance(error, InvalidInput | ArtifactError | Conflict):
        return JSONResponse(error_body(str(error), "InvalidUserInput", code=400), 400)
    raise error
