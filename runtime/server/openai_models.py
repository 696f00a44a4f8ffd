"""OpenAI's models: the base and the adapters that a caller may use."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter

from adapthub.runtime.server.dependencies import TheCaller, TheServing

router = APIRouter(prefix="/v1", tags=["models"])


@router.get("/models")
async def models(serving: TheServing, caller: TheCaller) -> dict[str, Any]:
    """The base, adapters that an administrator loaded, and adapters of the hub that fit; newest versions."""
    entries, base = await serving.catalog.entries(caller), serving.catalog.base_name
    folders = serving.catalog.folders
    found = [_model(base, None, None)]
    found += [_model(name, made, base) for name, made in folders.items() if caller.may_use(name)]
    found += [_model(entry.name, entry.latest.created, base) for entry in entries]
    return {"object": "list", "data": found}


@router.get("/models/{model:path}")
async def model(model: str, serving: TheServing, caller: TheCaller) -> dict[str, Any]:
    """One model by name."""
    created = await serving.catalog.check(model, caller)
    return _model(model, created, None if serving.catalog.is_base(model) else serving.catalog.base_name)


def _model(id: str, created: datetime | None, parent: str | None) -> dict[str, Any]:
    """`created`: 0 where nobody knows."""
    return {
        "id": id,
        "object": "model",
        "created": 0 if created is None else int(created.timestamp()),
        "owned_by": id.partition("/")[0],
        "parent": parent,
    }
