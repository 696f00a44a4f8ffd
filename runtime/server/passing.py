"""One request of rows that run in passes, texts or recordings, from admission to the written record of what it used.

What was used is on disk before the answers are given out, also where the client has left meanwhile. Does not know what rows
are, HTTP or any API's format.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from adapthub.runtime.batcher import Answer, Batcher, Given, Job, Question
from adapthub.runtime.requests import Usage
from adapthub.runtime.server.catalog import Target
from adapthub.runtime.server.observation import Observation
from adapthub.runtime.server.serving import Serving
from adapthub.runtime.tenants.caller import Caller
from adapthub.runtime.tenants.gate import UsageRecord


async def passed(
    serving: Serving,
    caller: Caller,
    target: Target,
    kind: str,
    batcher: Batcher[Given, Question, Answer],
    rows: Sequence[Given],
    *,
    id: str,
    admitted: Callable[[Sequence[Question]], int],
) -> tuple[list[Answer], int]:
    """Read, admit and run rows under one adapter: an answer each, and the tokens that were read. `id` names the request;
    `admitted` counts those tokens, or refuses rows that were read before they count.

    Raises RateLimited and QuotaExceeded by the caller's limits, Overloaded by the server's, what reading raises, and what
    loading the adapter raises. A caller that is cancelled leaves the queue.
    """
    serving.begin()
    counted: int | None = None
    job: Job[Question, Answer] | None = None
    outcome = "error"
    queued, begun = time.time(), time.monotonic()

    async def settle(counted: int) -> None:
        try:
            used = job.tokens if job else 0
            now = datetime.now(UTC)
            record = UsageRecord(id, now, caller.tenant, kind, target.label, used, 0, 0, outcome)
            await serving.gate.record(record, counted)
            usage, last = Usage(used, 0, 0), queued + time.monotonic() - begun
            serving.observe(
                Observation(id, kind, caller.tenant, target, outcome, usage, queued, None, None, last)
            )
        finally:
            serving.end()

    try:
        async with batcher.reading(rows, target.adapter, caller.tenant) as questions:
            tokens = admitted(questions)
            serving.gate.admit(caller, tokens)
            counted = tokens
            job = batcher.submit(questions, caller.tenant)
            answers = await job.answers()
            outcome = "stop"
            return answers, tokens
    except asyncio.CancelledError:
        outcome = "cancelled"
        raise
    finally:
        if counted is None:
            serving.end()
        else:
            await asyncio.shield(serving.spawn(settle(counted)))
