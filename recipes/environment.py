"""Where a run ran: versions of what computes, and the hardware. Does not benchmark anything."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

_LATER = ("triton", "liger_kernel")  # records from before have neither, whatever was installed
_LIBRARIES = (
    *("adapthub", "torch", "transformers", "peft", "accelerate", "bitsandbytes", "safetensors", "tokenizers"),
    *("numpy", *_LATER),
)


def libraries() -> dict[str, str]:
    """Versions of the libraries that decide what a run computes; those not installed are left out."""
    return {"python": platform.python_version(), **_versions()}


@cache
def _versions() -> Mapping[str, str]:
    """To ask takes longer than a step of a small model, and a run asks several times."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def unrecorded(versions: Mapping[str, str]) -> frozenset[str]:
    """The libraries of which a record of `versions` does not say whether they were there: all that were added to records
    together, where it has none of them."""
    return frozenset(() if any(name in versions for name in _LATER) else _LATER)


def hardware(device: torch.device, processes: int = 1) -> dict[str, Any]:
    """The device that a run computes on, and in how many processes if not one; `memory` in bytes."""
    facts: dict[str, Any] = {
        "device": device.type,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {"name": properties.name, "memory": properties.total_memory, "cuda": torch.version.cuda}
    if processes > 1:
        facts["processes"] = processes
    return facts
