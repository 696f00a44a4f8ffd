"""What a server is and how busy it is, as JSON has it: for administrators, the ready message and the page.

Reads snapshots; changes nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from adapthub.adapters.memory import free_memory
from adapthub.runtime.generation import PAGE_SIZE
from adapthub.runtime.server.serving import Serving


def status(serving: Serving) -> dict[str, Any]:
    """Sizes in bytes, times in seconds. `generation` is null for a base that only predicts."""
    base = serving.runtime.base
    return {
        "version": version("adapthub"),
        "state": "draining" if serving.draining else "ready" if serving.ready else "loading",
        "uptime": time.monotonic() - serving.begun,
        "in_flight": serving.in_flight,
        "tenants": not serving.gate.open,
        "base": {
            "name": serving.catalog.base_name,
            "fingerprint": base.fingerprint.digest,
            "quantize": base.quantization,
            "dtype": str(base.dtype).removeprefix("torch."),
            "device": str(base.device),
        },
        "memory": {"free": free_memory(base.device)},
        "generation": _generation(serving),
        "adapters": _adapters(serving),
    }


def residents(serving: Serving) -> list[dict[str, Any]]:
    """Every adapter that is registered, those in slots first, then by name. `names`: what clients and people call it;
    `idle`: seconds since a request last held it."""
    labels = serving.catalog.labels
    now = time.monotonic()
    found = [
        {
            "names": labels.get(resident.digest, []),
            "digest": resident.digest,
            "state": resident.state,
            "bytes": resident.bytes,
            "pinned": resident.pinned,
            "holders": resident.holders,
            "uses": resident.uses,
            "idle": None if resident.last_used is None else now - resident.last_used,
        }
        for resident in serving.runtime.resident
    ]
    return sorted(found, key=lambda one: (("slot", "host", "disk").index(one["state"]), one["names"]))


def _generation(serving: Serving) -> dict[str, Any] | None:
    load = serving.runtime.load
    if load is None:
        return None
    service = serving.runtime.generation
    return {
        **asdict(load),
        "kv_tokens": load.pages * PAGE_SIZE,
        "free_kv_tokens": load.free_pages * PAGE_SIZE,
        "context": service.context,
        "max_rows": service.limits.max_rows,
    }


def _adapters(serving: Serving) -> dict[str, Any]:
    resident = serving.runtime.resident
    counts = Counter(one.state for one in resident)
    return {
        "slot": counts["slot"],
        "host": counts["host"],
        "disk": counts["disk"],
        "pinned": sum(one.pinned for one in resident),
        "slot_bytes": sum(one.bytes for one in resident if one.state == "slot"),
        "host_bytes": sum(one.bytes for one in resident if one.state == "host"),
    }
