"""One request that generates, from admission to the written record of what it used: every API goes through here.

    async with await begin(serving, caller, target, "chat", prompt_ids, samplings) as answer:
        async for choice, event in answer: ...

Whoever leaves the block early, as a client that went away does, cancels what still runs. What was used is on disk before the
last event is given out. Does not know HTTP or any API's format.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from types import TracebackType
from uuid import uuid4

from adapthub.adapters.errors import AdaptHubError
from adapthub.runtime.requests import Event, Usage
from adapthub.runtime.sampling import Sampling
from adapthub.runtime.server.catalog import Target
from adapthub.runtime.server.serving import Serving
from adapthub.runtime.streams import AsyncStream
from adapthub.runtime.tenants.caller import Caller
from adapthub.runtime.tenants.gate import UsageRecord

_LOG = logging.getLogger(__name__)
# Why a request ended, where its choices ended differently: the first of these that one has.
_WORST = ("error", "cancelled", "deadline", "length", "stop", None)
_SETTLING = 10.0  # seconds that cancelled choices get to end: a step of the engine and no more


async def begin(
    serving: Serving,
    caller: Caller,
    target: Target,
    kind: str,
    prompt_ids: Sequence[int],
    samplings: Sequence[Sampling],
    *,
    timeout: float | None = None,
) -> Answer:
    """Admit a request and start its choices, one for each of `samplings` (with n = 1). To be entered at once.

    Raises RateLimited and QuotaExceeded by the caller's limits, Overloaded by the server's, and what Runtime.astream does.
    """
    admitted = len(prompt_ids) + sum(sampling.max_new_tokens for sampling in samplings)
    serving.gate.admit(caller, admitted)
    serving.begin()
    answer = Answer(serving, caller, target, kind, admitted, len(samplings))
    try:
        for sampling in samplings:
            stream = await serving.runtime.astream(
                [*prompt_ids], target.adapter, tenant=caller.tenant, timeout=timeout, **vars(sampling)
            )
            answer.streams.append(stream)
    except BaseException:
        await answer.settle()
        raise
    return answer


class Answer:
    """The texts that one prompt is continued with as they come: iterate, once, over (choice, event) pairs.

    Raises the error that a choice ended with, and `usage` is complete behind the last event. `id` names the request to the
    client, in logs and in the record of usage.
    """

    def __init__(
        self, serving: Serving, caller: Caller, target: Target, kind: str, admitted: int, choices: int
    ) -> None:
        self.id = uuid4().hex
        self.streams: list[AsyncStream] = []
        self._serving = serving
        self._caller = caller
        self._target = target
        self._kind = kind
        self._admitted = admitted
        self._last: list[Event | None] = [None] * choices
        self._settled: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Answer:
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        await self.settle()

    @property
    def usage(self) -> Usage:
        """Of all choices that have ended; the prompt, which they share, counts once."""
        ended = [event.usage for event in self._last if event is not None and event.usage is not None]
        return Usage(
            prompt_tokens=max((usage.prompt_tokens for usage in ended), default=0),
            cached_tokens=max((usage.cached_tokens for usage in ended), default=0),
            completion_tokens=sum(usage.completion_tokens for usage in ended),
        )

    async def __aiter__(self) -> AsyncIterator[tuple[int, Event]]:
        async for choice, event in self._merged():
            if event.finish_reason is not None:
                self._last[choice] = event
                if event.error is not None:
                    raise event.error
                if all(self._last):
                    await self.settle()
            yield choice, event

    async def settle(self) -> None:
        """Cancel what still runs, and write down what was used: once, and to the end also if the caller is cancelled."""
        if self._settled is None:
            self._settled = self._serving.spawn(self._settle())
        await asyncio.shield(self._settled)

    async def _merged(self) -> AsyncIterator[tuple[int, Event]]:
        """The events of all choices as they come."""
        if len(self.streams) == 1:
            async for event in _events(self.streams[0]):
                yield 0, event
            return
        queue: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()

        async def pump(choice: int, stream: AsyncStream) -> None:
            async for event in _events(stream):
                queue.put_nowait((choice, event))

        pumps = [asyncio.create_task(pump(*pair)) for pair in enumerate(self.streams)]
        try:
            while not all(self._last):
                yield await queue.get()
        finally:
            for task in pumps:
                task.cancel()

    async def _settle(self) -> None:
        try:
            for choice, stream in enumerate(self.streams):
                if self._last[choice] is None:
                    stream.leave()
                    self._last[choice] = await _last_event(stream)
            await self._serving.gate.record(self._record(), self._admitted)
        finally:
            self._serving.end()

    def _record(self) -> UsageRecord:
        reasons = [event.finish_reason for event in self._last if event is not None]
        return UsageRecord(
            id=self.id,
            when=datetime.now(UTC),
            tenant=self._caller.tenant,
            kind=self._kind,
            adapter=self._target.label,
            outcome=min(reasons, key=_WORST.index, default="error") or "error",
            **asdict(self.usage),
        )


async def _events(stream: AsyncStream) -> AsyncIterator[Event]:
    """The last one has the error that the request ended with, if any: it is not raised here."""
    with suppress(AdaptHubError):
        async for event in stream:
            yield event


async def _last_event(stream: AsyncStream) -> Event | None:
    if not await stream.ended_within(_SETTLING):
        _LOG.error("request %s did not end when it was cancelled", stream.id)
        return None
    return stream.last
