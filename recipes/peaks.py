"""What steps of a process take at most, of its memory and its GPU's, and how large a batch fits by that. Frees what glibc
keeps; trains nothing.

Linux can forget the most a process took (proc(5), clear_refs), so that each step's is known; where a system cannot, a step's
is not.
"""

from __future__ import annotations

import ctypes
import math
import sys
from dataclasses import dataclass
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
        self.tells_steps = self._gpu is not None or _forgets()
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
        """What is held between two steps, with which the next reading is to be compared: by a process that gave back all
        that is free; of a GPU what is in use."""
        self.read()
        if self._gpu is not None:
            return torch.cuda.memory_allocated(self._gpu)
        if hasattr(library := ctypes.CDLL(None), "malloc_trim"):
            # glibc keeps what was freed, and a step that finds room there adds nothing.
            library.malloc_trim(0)
            _high_water()
        return _high_water()


def free_for_us(device: torch.device) -> int:
    """Bytes of a GPU that are free, or this process's: the base is there already."""
    return free_memory(device) + torch.cuda.memory_reserved(device)


@dataclass(frozen=True)
class Step:
    """A batch of so many `rows`, and the `added` bytes that its step took beside what was held."""

    rows: int
    added: int


def largest_batch(half: Step, whole: Step, *, left: int, part: int | None, most: int) -> int:
    """How many rows a batch may have, `most` at most.

    `half`: a step of fewer rows than `whole`, or of none where none was tried. `left`: bytes that are free beside all that
    was taken; below 0, that are missing. `part`: rows that are computed at a time, however many a batch has, so that more
    of them add nothing; None where all are.
    """
    part = most if part is None else min(part, most)
    few, many = min(half.rows, part), min(whole.rows, part)
    a_row = whole.added / many  # at most
    if few < many:
        a_row = max(whole.added - half.added, _SEEN) / (many - few)
    fit = many + math.floor(left / max(a_row, 1))
    return most if fit >= part else max(1, fit)


def more_rows(evaluation: Step, left: int) -> int:
    """How many more may be evaluated at once than are. `left`: as for `largest_batch`."""
    return math.floor(left * evaluation.rows / max(evaluation.added, _SEEN))


def left_of(free: int, taken: int) -> int:
    """Bytes that a run may take beside what it took, where `free` were free before it."""
    return int(_USABLE * free) - taken


def _forgets() -> bool:
    try:
        _CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _high_water() -> int:
    """Bytes resident at most since it was last asked; since the process began where the system cannot forget."""
    lines = _STATUS.read_text(encoding="ascii").splitlines() if _STATUS.exists() else []
    found = [1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    if not found:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    _forgets()
    return found[0]
