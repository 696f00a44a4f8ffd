"""What the web page shows, as JSON: what runs now and what the last minute was like. Not a public API.

A tenant sees its own traffic and the adapters that it may use; administrators see everything. Does not measure.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from fastapi import APIRouter, Request

from adapthub.runtime.server.dependencies import TheCaller, TheServing
from adapthub.runtime.server.recent import Recent, Traffic
from adapthub.runtime.server.serving import Serving
from adapthub.runtime.tenants.caller import Caller

router = APIRouter(prefix="/api", tags=["page"])


@dataclass(frozen=True)
class BaseShown:
    """The base. `context`: tokens of the longest request, None where it does not generate."""

    name: str
    quantize: str | None
    device: str
    dtype: str
    context: int | None


@dataclass(frozen=True)
class AdapterShown:
    """One registered adapter. `where`: "slot" (attached), "host" (in memory) or "disk"; `bytes`: what it takes there;
    `running`: requests on it now; `uses`: requests so far."""

    name: str
    digest: str
    where: Literal["slot", "host", "disk"]
    bytes: int
    pinned: bool
    running: int
    uses: int


@dataclass(frozen=True)
class LoadShown:
    """How busy the server is: requests that are computed, of at most `rows`, and that wait; pages of keys and values; and
    since it began: rows that made room for others, adapters put into a slot and taken out for another."""

    running: int
    rows: int
    waiting: int
    pages: int
    free_pages: int
    preemptions: int
    loads: int
    swaps: int


@dataclass(frozen=True)
class Live:
    """All that the page polls for. `now`: Unix seconds; `load`: for administrators, where the base generates."""

    now: float
    tenant: str
    admin: bool
    open: bool
    base: BaseShown
    load: LoadShown | None
    adapters: list[AdapterShown]
    traffic: list[Traffic]


@router.get("/live")
async def live(request: Request, serving: TheServing, caller: TheCaller) -> Live:
    """The server at this moment, and its last minute."""
    recent: Recent = request.app.state.recent
    return Live(
        now=time.time(),
        tenant=caller.tenant,
        admin=caller.admin,
        open=serving.gate.open,
        base=_base(serving),
        load=_load(serving) if caller.admin else None,
        adapters=_adapters(serving, caller),
        traffic=recent.traffic(None if caller.admin else caller.tenant),
    )


def _base(serving: Serving) -> BaseShown:
    base = serving.runtime.base
    generates = serving.runtime.load is not None
    return BaseShown(
        name=serving.catalog.base_name,
        quantize=base.quantization,
        device=str(base.device),
        dtype=str(base.dtype).removeprefix("torch."),
        context=serving.runtime.generation.context if generates else None,
    )


def _load(serving: Serving) -> LoadShown | None:
    load, moves = serving.runtime.load, serving.runtime.moves
    if load is None:
        return None
    return LoadShown(
        running=load.running,
        rows=serving.runtime.generation.limits.max_rows,
        waiting=load.waiting,
        pages=load.pages,
        free_pages=load.free_pages,
        preemptions=load.preemptions,
        loads=moves.loads,
        swaps=moves.swaps,
    )


def _adapters(serving: Serving, caller: Caller) -> list[AdapterShown]:
    """Those that the caller may use, by name; one that has several is shown under the latest of them."""
    names = {
        digest: [label for label in labels if caller.may_use(label.partition("@")[0])]
        for digest, labels in serving.catalog.labels.items()
    }
    found = [
        AdapterShown(
            name=names[resident.digest][-1],
            digest=resident.digest,
            where=resident.state,
            bytes=resident.bytes,
            pinned=resident.pinned,
            running=resident.holders if caller.admin else 0,
            uses=resident.uses if caller.admin else 0,
        )
        for resident in serving.runtime.resident
        if names.get(resident.digest)
    ]
    return sorted(found, key=lambda adapter: adapter.name)
