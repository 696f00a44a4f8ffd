"""What steps of a process take at most, of its memory and its GPU's, and how large a batch fits by that. Frees what glibc
keeps; trains nothing.

Linux can forget the most a process took (proc(5), clear_refs), so that each step's is known. Where the system cannot, a step
that takes more than all before is told from these, and no other.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from pathlib import Path

import torch

from adapthub.adapters.memory import free_memory

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_USABLE = 0.95  # of the memory that is free: the rest moves while a run goes on
_SEEN = 8 << 20  # bytes: what a process holds differs by less for no reason that can be told


class Peak:
    """The most memory: of this process, which includes what it maps and looks at, and of its GPU."""

    def __init__(self, device: torch.device) -> None:
        self._gpu = device if device.type == "cuda" else None
        self.host = 0
        self.device: int | None = None

    def read(self) -> int:
        """The most since the last reading, of the GPU where there is one; it is counted anew from now.

        Of a GPU that is what was in use. `device` has what torch keeps for later beside, which tells nothing of one step.
        """
        host = _high_water()
        self.host = max(self.host, host)
        if self._gpu is None:
            return host
        self.device = max(self.device or 0, torch.cuda.max_memory_reserved(self._gpu))
        most = torch.cuda.max_memory_allocated(self._gpu)
        torch.cuda.reset_peak_memory_stats(self._gpu)
        return most

    def rest(self) -> int:
        """What is held between two steps when all that is free has been given back, for a step's peak to be compared with.

        0 for a GPU, of whose memory what is kept for later counts in no peak.
        """
        self.read()
        if self._gpu is not None:
            return 0
        if hasattr(library := ctypes.CDLL(None), "malloc_trim"):
            # glibc keeps what was freed, and a step that finds room there adds nothing.
            library.malloc_trim(0)
            _high_water()
        return _high_water()


def free_for_us(device: torch.device) -> int:
    """Bytes of a GPU that are free, or this process's: the base is there already."""
    return free_memory(device) + torch.cuda.memory_reserved(device)


def largest_batch(rows: int, *, half: int, whole: int, left: int, at_once: int | None) -> int | None:
    """How many rows a batch may have; None for one of one row, of which nothing follows.

    `whole`: bytes that a step of `rows` rows added, `half`: one of half as many (rounded down); `left`: bytes that are free
    beside all that was taken (below 0: missing). `at_once`: rows that are computed at a time, however many a batch has, so
    that more of them add nothing; None where all are. Where that many fit, there is no largest batch: 2**63 - 1.
    """
    if rows == 1:
        return None
    a_row = max(whole - half, _SEEN) / (rows - rows // 2)
    fit = (rows if at_once is None else min(rows, at_once)) + int(left / a_row)
    return sys.maxsize if at_once is not None and fit >= at_once else max(1, fit)


def left_of(free: int, taken: int) -> int:
    """Bytes that a run may take beside what it took, where `free` were free before it."""
    return int(_USABLE * free) - taken


def _high_water() -> int:
    """Bytes resident at most since it was last asked; since the process began where the system cannot forget."""
    if not _STATUS.exists():
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    with suppress(OSError):
        _CLEAR.write_text("5", encoding="ascii")
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
