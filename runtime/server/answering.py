"""One request that generates, from admission to the written record of what it used: every API goes through here.

    async with await begin(serving, caller, target, "chat", [prompt_ids], samplings) as answer:
        async for choice, event in answer: ...

Whoever leaves the block early, as a client that went away does, cancels what still runs. What was used is on disk before the
last event is given out. Does not know HTTP or any API's format.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import pairwise
from types import TracebackType
from typing import cast
from uuid import uuid4

from adapthub.runtime.feedback import Logged
from adapthub.runtime.requests import Event, Usage
from adapthub.runtime.sampling import Sampling
from adapthub.runtime.server.catalog import Target
from adapthub.runtime.server.observation import Observation
from adapthub.runtime.server.serving import Serving
from adapthub.runtime.server.shadow import Shadow
from adapthub.runtime.streams import AsyncStream
from adapthub.runtime.tenants.caller import Caller
from adapthub.runtime.tenants.gate import UsageRecord

_LOG = logging.getLogger(__name__)
# Why a request ended, where its choices ended differently: the first of these that one has.
_WORST = ("error", "cancelled", "deadline", "length", "stop")
_SETTLING = 10.0  # seconds that cancelled choices get to end: a step of the engine and no more


async def begin(
    serving: Serving,
    caller: Caller,
    target: Target,
    kind: str,
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[Sampling],
    *,
    id: str | None = None,
    priority: int = 0,
) -> Answer:
    """Admit a request and start its choices: one for each of `samplings` (with n = 1), for every prompt. To be entered
    at once.

    `id`: what names it, where it has a name already. Raises RateLimited and QuotaExceeded by the caller's limits, Overloaded
    by the server's, and what Runtime.astream does.
    """
    new_tokens = sum(sampling.max_new_tokens for sampling in samplings)
    admitted = sum(len(prompt_ids) + new_tokens for prompt_ids in prompts)
    serving.begin()
    try:
        serving.gate.admit(caller, admitted)
    except BaseException:
        serving.end()
        raise
    answer = Answer(serving, caller, target, kind, admitted, prompts, len(samplings), id or uuid4().hex)
    try:
        for prompt_ids in prompts:
            for sampling in samplings:
                stream = await serving.runtime.astream(
                    [*prompt_ids],
                    target.adapter,
                    tenant=caller.tenant,
                    priority=priority,
                    **vars(sampling),
                )
                answer.streams.append(stream)
    except BaseException as error:
        answer.error = error if isinstance(error, Exception) else None  # else the caller was cancelled
        await answer.settle()
        raise
    if target.shadow is not None and serving.runtime.generation.has_room:
        answer.shadow = Shadow(serving, target.shadow, prompts[0], samplings[0])
    return answer


class Answer:
    """The texts that prompts are continued with as they come: iterate, once, over (choice, event) pairs. The choices of the
    first prompt come first, then those of the second.

    Raises the error that a choice ended with, and `usage` is complete behind the last event. `id` names the request to the
    client, in logs and in the record of usage.
    """

    def __init__(
        self,
        serving: Serving,
        caller: Caller,
        target: Target,
        kind: str,
        admitted: int,
        prompts: Sequence[Sequence[int]],
        choices: int,
        id: str,
    ) -> None:
        self.id = id
        self.choices = len(prompts) * choices
        self.streams: list[AsyncStream] = []
        self.error: BaseException | None = None  # what it ended with
        self.shadow: Shadow | None = None
        self._serving = serving
        self._caller = caller
        self._target = target
        self._kind = kind
        self._prompts = prompts
        self._admitted = admitted
        self._choices_each = choices
        self._last: list[Event | None] = [None] * self.choices
        self._texts: list[list[str]] = [[] for _ in range(self.choices)]
        self._begun = time.monotonic()
        self._times: list[list[float]] = [
            [] for _ in range(self.choices)
        ]  # when a choice's tokens were there
        self._pumps: list[asyncio.Task[None]] = []
        self._settled: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Answer:
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        await self.settle()

    @property
    def usage(self) -> Usage:
        """Of all choices that have ended. A prompt counts once for all its choices, where any of them ran; cached is what
        each of them found."""
        prompt_tokens = cached_tokens = completion_tokens = 0
        for first in range(0, self.choices, self._choices_each):
            ended = [
                event.usage
                for event in self._last[first : first + self._choices_each]
                if event is not None and event.usage is not None
            ]
            prompt_tokens += max((usage.prompt_tokens for usage in ended), default=0)
            cached_tokens += min((usage.cached_tokens for usage in ended), default=0)
            completion_tokens += sum(usage.completion_tokens for usage in ended)
        return Usage(prompt_tokens, cached_tokens, completion_tokens)

    async def __aiter__(self) -> AsyncIterator[tuple[int, Event]]:
        async for batch in self.batches():
            for pair in batch:
                yield pair

    async def batches(self) -> AsyncIterator[list[tuple[int, Event]]]:
        """The same, all that is ready at a time."""
        async for batch in self._merged():
            for choice, event in batch:
                if self._serving.feedback.logging:
                    self._texts[choice].append(event.text)
                if event.tokens:
                    self._times[choice] += [event.at] * len(event.tokens)
                    self._serving.count(self._caller.tenant, self._target, len(event.tokens))
                if self.shadow is not None and choice == 0:
                    self.shadow.heard(event)
                if event.finish_reason is not None:
                    self._last[choice] = event
                    if event.error is not None:
                        self.error = event.error
                        await self.settle()
                        raise event.error
            if all(self._last):
                await self.settle()
            yield batch

    async def settle(self) -> None:
        """Cancel what still runs, and write down what was used: once, and to the end also if the caller is cancelled.

        Raises what writing it down raises.
        """
        if self._settled is None:
            self._settled = self._serving.spawn(self._settle())
        await asyncio.shield(self._settled)

    async def _merged(self) -> AsyncIterator[list[tuple[int, Event]]]:
        """The events of all choices as they come."""
        if len(self.streams) == 1:
            while not all(self._last):
                yield [(0, event) for event in await self.streams[0].batch()]
            return
        queue: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._pumps = [
            asyncio.create_task(_pump(choice, stream, queue)) for choice, stream in enumerate(self.streams)
        ]
        while not all(self._last):
            batch = [await queue.get()]
            while not queue.empty():
                batch.append(queue.get_nowait())
            yield batch

    async def _settle(self) -> None:
        try:
            for pump in self._pumps:  # else they would take the events that are waited for here
                pump.cancel()
            await asyncio.gather(*self._pumps, return_exceptions=True)
            running = [choice for choice in range(len(self.streams)) if self._last[choice] is None]
            for choice in running:
                self.streams[choice].leave()
            for choice in running:
                self._last[choice] = await _last_event(self.streams[choice])
            record = self._record()
            await self._serving.gate.record(record, self._admitted)
            unseen = record.completion_tokens - sum(map(len, self._times))  # generated, and nobody read on
            self._serving.count(self._caller.tenant, self._target, max(0, unseen))
            self._serving.observe(self._observation(record.outcome))
            if self._serving.feedback.logging:
                self._serving.feedback.log(self._logged())
        except Exception:
            _LOG.exception("what request %s used could not be written down", self.id)
            raise
        finally:
            if self.shadow is not None:
                self.shadow.compare(self.id)
            self._serving.end()

    def _observation(self, outcome: str) -> Observation:
        since = time.time() - time.monotonic()
        ended = [event for event in self._last if event is not None]
        started = [event.started for event in ended if event.started is not None]
        first = [times[0] for times in self._times if times]
        return Observation(
            id=self.id,
            kind=self._kind,
            tenant=self._caller.tenant,
            target=self._target,
            outcome=outcome,
            usage=self.usage,
            queued=since + self._begun,
            started=since + min(started) if started else None,
            first=since + min(first) if first else None,
            last=since + time.monotonic(),
            gaps=[after - before for times in self._times for before, after in pairwise(times)],
            error=self.error or next((event.error for event in ended if event.error is not None), None),
        )

    def _logged(self) -> Logged:
        tokenizer = self._serving.runtime.generation.tokenizer
        return Logged(
            request_id=self.id,
            tenant=self._caller.tenant,
            kind=self._kind,
            adapter=self._target.label,
            input="\n".join(cast(str, tokenizer.decode([*prompt_ids])) for prompt_ids in self._prompts),
            output=["".join(texts) for texts in self._texts],
        )

    def _record(self) -> UsageRecord:
        reasons = [event.finish_reason for event in self._last if event is not None and event.finish_reason]
        begun = len(self.streams)
        if len(reasons) < begun:  # some never ended
            reasons.append("error")
        if begun < self.choices:  # an error, or the client left
            reasons.append("cancelled" if self.error is None else "error")
        return UsageRecord(
            id=self.id,
            when=datetime.now(UTC),
            tenant=self._caller.tenant,
            kind=self._kind,
            adapter=self._target.label,
            outcome=min(reasons, key=_WORST.index),
            **asdict(self.usage),
        )


async def _pump(choice: int, stream: AsyncStream, queue: asyncio.Queue[tuple[int, Event]]) -> None:
    """One choice's events into the queue of all, to the last."""
    ended = False
    while not ended:
        for event in await stream.batch():
            queue.put_nowait((choice, event))
            ended = event.finish_reason is not None


async def _last_event(stream: AsyncStream) -> Event | None:
    if not await stream.ended_within(_SETTLING):
        _LOG.error("request %s did not end when it was cancelled", stream.id)
        return None
    return stream.last
