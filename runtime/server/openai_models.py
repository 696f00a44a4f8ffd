"""OpenAI's models: the base and the adapters that a caller may use."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from adapthub.runtime.server.dependencies import TheCaller, TheServing

router = APIRouter(prefix="/v1", tags=["models"])


@router.get("/models")
async def models(serving: TheServing, caller: TheCaller) -> dict[str, Any]:
    """The base, adapters that an administrator loaded, and adapters of the hub that fit; newest versions."""
    entries = await serving.catalog.entries(caller)
    found = [_model(serving.catalog.base_name, 0, None)]
    found += [
        _model(name, 0, serving.catalog.base_name) for name in serving.catalog.folders if caller.may_use(name)
    ]
    found += [
        _model(entry.name, int(entry.latest.created.timestamp()), serving.catalog.base_name)
        for entry in entries
    ]
    return {"object": "list", "data": found}


@router.get("/models/{model:path}")
async def model(model: str, serving: TheServing, caller: TheCaller) -> dict[str, Any]:
    """One model by name."""
    await serving.catalog.check(model, caller)
    return _model(model, 0, None if serving.catalog.is_base(model) else serving.catalog.base_name)


def _model(id: str, created: int, parent: str | None) -> dict[str, Any]:
    return {
        "id": id,
        "object": "model",
        "created": created,
        "owned_by": id.partition("/")[0],
        "parent": parent,
    }
