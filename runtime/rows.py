"""A request that runs, and the part of it that one pass computes.

Plain state. Does not decide what runs, take pages or compute.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from adapthub.runtime.kv import Held
from adapthub.runtime.requests import Request
from adapthub.runtime.sampler import Sampler
from adapthub.runtime.scheduler import Waiting
from adapthub.runtime.text_stream import TextStream


@dataclass(eq=False)
class Row:
    """A request that runs. `tokens`: prompt and generated; `held.length` of them have keys and values. `cached`: of the
    prompt's, those that others computed; `started`: when it first ran; `restarted`: whether it was preempted before."""

    request: Request
    waiting: Waiting
    sampler: Sampler
    stream: TextStream
    tokens: list[int]
    started: float
    held: Held = field(default_factory=Held)
    cached: int = 0
    restarted: bool = False

    @property
    def pending(self) -> int:
        """Tokens that the next steps compute: one while decoding, more while filling."""
        return len(self.tokens) - self.held.length

    @property
    def generated(self) -> int:
        return len(self.tokens) - len(self.request.prompt_ids)


@dataclass(frozen=True)
class Part:
    """The next `count` tokens of a row, computed in one pass."""

    row: Row
    count: int

    @property
    def completes(self) -> bool:
        """Whether the row's last token is among them, so that another can be sampled."""
        return self.count == self.row.pending
