"""The bases that this hub knows. A record decides what others may publish, so only admins add and remove one.

PUT    /api/bases          the JSON that `adapt base record` prints
GET    /api/bases          [{"id", "revision", "digest", "model_type", "added"}], by id
GET    /api/bases/{base}   one of these with its "record"; {base} is a digest, the beginning of one, or an id
DELETE /api/bases/{base}
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from adapthub.adapters.base_record import MAX_BYTES, KnownBase
from adapthub.hub import bases
from adapthub.hub.access import require_admin
from adapthub.hub.documents import base_record
from adapthub.hub.server.dependencies import FilePath, TheCaller, TheServing
from adapthub.hub.storage.retrying import retried
from adapthub.web.bodies import read_body

router = APIRouter(prefix="/api/bases", tags=["bases"])


@router.put("")
async def add(request: Request, serving: TheServing, caller: TheCaller) -> dict[str, Any]:
    """Know a base from now on."""
    require_admin(caller)
    body = await read_body(request, MAX_BYTES)

    @retried
    def store() -> dict[str, Any]:
        record = KnownBase.from_json(body, "the record of the base")
        with serving.store.database.writing() as session:
            return base_record(bases.add_base(session, record, actor=caller.actor))

    return await run_in_threadpool(store)


@router.get("")
def known(serving: TheServing, caller: TheCaller) -> list[dict[str, Any]]:
    """Every base."""
    with serving.store.database.reading() as session:
        return [base_record(base) for base in bases.list_bases(session)]


@router.get("/{path:path}")
def show(path: FilePath, serving: TheServing, caller: TheCaller) -> dict[str, Any]:
    """One base with the names and shapes of its modules."""
    with serving.store.database.reading() as session:
        listed, record = bases.show_base(session, path)
    return {**base_record(listed), "record": record.model_dump(mode="json")}


@router.delete("/{path:path}")
@retried
def remove(path: FilePath, serving: TheServing, caller: TheCaller) -> dict[str, Any]:
    """Forget a base; what was published keeps its verdict."""
    require_admin(caller)
    with serving.store.database.writing() as session:
        return base_record(bases.remove_base(session, path, actor=caller.actor))
