"""One registered adapter: where it is, who uses it, and what its last load came to; and a snapshot of it for others.

Plain state, changed under Residency's lock. Does not move anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from adapthub.adapters.admission import WEIGHTS
from adapthub.runtime.host_copy import HostCopy

if TYPE_CHECKING:
    from adapthub.adapters.artifact import Artifact


@dataclass(frozen=True)
class Resident:
    """One registered adapter. `bytes`: in the slot, else in host memory, else of its weights' file. `holders`: running
    requests; `uses`: how often it was held; `last_used`: when it was last held, on the clock given."""

    digest: str
    state: Literal["slot", "host", "disk"]
    bytes: int
    pinned: bool
    holders: int
    last_used: float | None
    uses: int


@dataclass(eq=False)
class Registered:
    """`stage`: out -> loading -> slot -> leaving -> out."""

    artifact: Artifact
    need: int  # bytes of a slot: the file's, then the tensors', then what was measured
    measured: bool = False
    stage: Literal["out", "loading", "slot", "leaving"] = "out"
    host: HostCopy | None = None
    reading: bool = False
    pinned: bool = False
    forgotten: bool = False
    holders: int = 0
    uses: int = 0
    last_used: float | None = None
    failure: Exception | None = None
    failed: float = -math.inf

    @property
    def digest(self) -> str:
        return self.artifact.digest

    @property
    def host_size(self) -> int:
        """Bytes in host memory: exact once read, till then by the file."""
        return self.host.host_bytes if self.host else self.artifact.files[WEIGHTS].size

    @property
    def missing(self) -> bool:
        """Whether it needs a slot when somebody asks for it: it has none, and none is being made ready."""
        return self.stage in {"out", "leaving"} and self.failure is None

    def resident(self) -> Resident:
        """A snapshot."""
        if self.stage == "slot":
            state: Literal["slot", "host", "disk"] = "slot"
            size = self.need
        else:
            state = "host" if self.host else "disk"
            size = self.host_size
        return Resident(self.digest, state, size, self.pinned, self.holders, self.last_used, self.uses)
