"""The answer of a release's candidate that nobody hears, beside the one that is given: a row of the same batch.

It waits behind every request, is preempted first, is left out where the queue is filling, and is billed to nobody. Only the
first of several choices is compared. Does not choose who is shadowed (catalog does).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from adapthub.adapters.errors import AdaptHubError
from adapthub.runtime.requests import Event
from adapthub.runtime.sampling import Sampling
from adapthub.runtime.server.catalog import Target
from adapthub.runtime.server.release_watch import count
from adapthub.runtime.server.releases import Sample, is_fault
from adapthub.runtime.server.serving import Serving

_LOG = logging.getLogger(__name__)
NOBODY = ""  # the tenant; of a server without tenants the user too
_LAST = -(2**31)  # the priority: no request's is lower
_COMPARABLE = ("stop", "length")


class Shadow:
    """Begins at once, and never raises. Tell it what is `heard` of the answer that is given, and to `compare` at its end."""

    def __init__(
        self,
        serving: Serving,
        target: Target,
        prompt_ids: Sequence[int],
        sampling: Sampling,
    ) -> None:
        self._serving = serving
        self._target = target
        self._heard: list[Event] = []
        self._said: list[Event] = []
        self._error: AdaptHubError | None = None
        self._began = time.monotonic()
        self._first: float | None = None
        self._ended: float | None = None
        self._answering = serving.spawn(self._answer(prompt_ids, sampling))

    def heard(self, event: Event) -> None:
        """Something of the answer that is given."""
        self._heard.append(event)

    def compare(self, id: str) -> None:
        """The answer `id` was given, or given up: then nothing is compared."""
        if self._heard and self._heard[-1].finish_reason in _COMPARABLE:
            self._serving.spawn(self._compare(id))
        else:
            self._answering.cancel()

    async def _answer(self, prompt_ids: Sequence[int], sampling: Sampling) -> None:
        try:
            stream = await self._serving.runtime.astream(
                [*prompt_ids],
                self._target.adapter,
                tenant=NOBODY,
                priority=_LAST,
                **vars(sampling),
            )
            async for event in stream:
                if event.tokens and self._first is None:
                    self._first = time.monotonic()
                self._said.append(event)
        except AdaptHubError as error:
            self._error = error
        self._ended = time.monotonic()

    async def _compare(self, id: str) -> None:
        await self._answering
        assert self._ended is not None
        assert self._target.release is not None
        fault = is_fault(self._error)
        if self._error is not None and not fault:  # the queue was full, or the like
            return
        tally = self._serving.catalog.releases.tally(self._target.release)
        given, said = _text(self._heard), _text(self._said)
        if self._error is None:
            tally.compared += 1
            tally.equal += given == said
            tally.tokens += _tokens(self._heard)
            tally.candidate_tokens += _tokens(self._said)
        ttft = None if self._first is None else self._first - self._began
        seconds = self._ended - self._began
        compared = {
            "id": id,
            "release": self._target.release,
            "version": self._target.label,
            "equal": given == said,
            "tokens": _tokens(self._heard),
            "candidate_tokens": _tokens(self._said),
            "ttft": ttft,
            "seconds": seconds,
            "error": None if self._error is None else str(self._error),
        }
        _LOG.info("a shadow answered", extra={"fields": compared})
        count(self._serving, self._target.release, Sample(fault, ttft, seconds))


def _text(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events)


def _tokens(events: Sequence[Event]) -> int:
    return sum(len(event.tokens) for event in events)
