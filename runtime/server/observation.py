"""What the server saw of one request that ended, for whoever counts, traces or judges it. No text of prompt or answer.

Does not measure (answering does) or keep anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adapthub.runtime.requests import Usage
from adapthub.runtime.server.catalog import Target
from adapthub.web import logs


@dataclass(frozen=True)
class Observation:
    """One request that ended. `id`, `kind`, `outcome`: as in its UsageRecord; `error`: what it ended with, if anything.

    Times are Unix seconds, exact to each other: `queued`, when it was admitted; `started`, when the engine first computed
    it, and `first`, when its first token was there, None where it never came to that; `last`, when it ended. `gaps`: the
    seconds between one token of a choice and the next.
    """

    id: str
    kind: str
    tenant: str
    target: Target
    outcome: str
    usage: Usage
    queued: float
    started: float | None
    first: float | None
    last: float
    gaps: Sequence[float] = ()
    error: BaseException | None = None

    @property
    def ttft(self) -> float | None:
        """Seconds from admission to the first token."""
        return None if self.first is None else self.first - self.queued

    @property
    def seconds(self) -> float:
        """From admission to the end."""
        return self.last - self.queued


def note(observation: Observation) -> None:
    """An observer of a server: the request's line in the log is to say what its answer came to."""
    logs.note(
        tenant=observation.tenant,
        model=observation.target.model,
        version=observation.target.label,
        outcome=observation.outcome,
        prompt_tokens=observation.usage.prompt_tokens,
        completion_tokens=observation.usage.completion_tokens,
        ttft=observation.ttft,
    )
