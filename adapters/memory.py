"""Memory: what is free on a device, refusing what cannot fit, and out-of-memory errors in one shape.

Does not free anything and does not estimate training or KV caches: whoever asks knows what it needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapthub.adapters.errors import OutOfMemory

if TYPE_CHECKING:
    import torch

_HOST_SIGNS = ("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory")
_CGROUP = Path("/sys/fs/cgroup")


@contextmanager
def memory_errors(doing: str, hint: str) -> Iterator[None]:
    """Turn every way in which Python, torch and its backends say "out of memory" into OutOfMemory.

    `doing` ends the sentence "out of memory while ..."; `hint` says what to change. Other errors pass
    unchanged.
    """
    try:
        yield
    except OutOfMemory:
        raise
    except MemoryError as error:
        raise OutOfMemory(f"out of memory while {doing}", hint=hint) from error
    except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU allocator raises the plain type
        if not any(sign in str(error).lower() for sign in _HOST_SIGNS):
            raise
        raise OutOfMemory(f"out of memory while {doing}", hint=hint) from error


def require_memory(needed: int, device: torch.device, doing: str, hint: str) -> None:
    """Raise OutOfMemory when `needed` bytes exceed what `device` has free.

    Linux promises host memory that it does not have and then kills the process, so this must be asked before.
    """
    free = free_memory(device)
    if needed > free:
        raise OutOfMemory(
            f"{doing} needs about {needed / 1e9:.1f} GB and {device.type} has {free / 1e9:.1f} GB free",
            hint=hint,
        )


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on `device`; for the host, within this container's limit."""
    if device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    psutil: Any = import_module("psutil")  # it publishes no types
    available = int(psutil.virtual_memory().available)
    limit, used = _cgroup("memory.max"), _cgroup("memory.current")
    return available if limit is None or used is None else min(available, limit - used + _reclaimable())


def _cgroup(name: str) -> int | None:
    try:
        text = (_CGROUP / name).read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _reclaimable() -> int:
    """Page cache of this control group, which the kernel gives back before it kills."""
    try:
        rows = (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(row.split()[1]) for row in rows if row.startswith("inactive_file "))
