"""What every endpoint of one server shares: the runtime, who may use what of it, and whether new requests are taken.

Does not know HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

from adapthub.adapters.errors import Overloaded
from adapthub.hub.registry import Registry
from adapthub.runtime.feedback import FeedbackStore
from adapthub.runtime.runtime import Runtime
from adapthub.runtime.server.catalog import Catalog, Target
from adapthub.runtime.server.feedback_log import FeedbackLog
from adapthub.runtime.server.observation import Observation
from adapthub.runtime.tenants.gate import Gate
from adapthub.web.bodies import Bounds

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerLimits:
    """What one request may be. `body_bytes`: of its body; `audio_bytes`, `audio_seconds`: of a recording, as it is sent and
    as it is decoded (Whisper reads 30 s whatever is allowed here); `picture_bytes`: of a picture; `body_parts`: brackets and
    commas in a body, room for the tokens of the longest embedding; `body_keys`: colons in it, room for the longest
    conversation; `body_seconds`: for its headers, and again for its body, to come, and again for its answer to be read where
    the client lets it lie; `drain_seconds`: that requests in flight get to end when the server stops."""

    body_bytes: int = 4 << 20
    audio_bytes: int = 25 << 20
    audio_seconds: float = 60.0
    picture_bytes: int = 20 << 20
    body_parts: int = 400_000
    body_keys: int = 100_000
    body_seconds: float = 30.0
    drain_seconds: float = 30.0

    @property
    def body(self) -> Bounds:
        """Of a body."""
        return Bounds(self.body_bytes, self.body_seconds, parts=self.body_parts, keys=self.body_keys)


@dataclass
class Serving:
    """One server's state. `catalog`: the models; `gate`: the tenants; `in_flight`: requests that are being answered;
    `feedback`: what users said of answers, and the log of requests; `begun`: when the server was, on the clock of
    time.monotonic.

    `observers` are told of every request that ended, once it is written down; `counters` of generated tokens as they come:
    the tenant, what they were generated with, and how many. Both are called on the event loop and must be quick.

    Belongs to one event loop.
    """

    runtime: Runtime
    hub: Registry
    catalog: Catalog
    gate: Gate
    limits: ServerLimits = field(default_factory=ServerLimits)
    feedback: FeedbackLog = field(default_factory=lambda: FeedbackLog(FeedbackStore()))
    ready: bool = False
    draining: bool = False
    in_flight: int = 0
    begun: float = field(default_factory=time.monotonic)
    observers: list[Callable[[Observation], None]] = field(default_factory=list)
    counters: list[Callable[[str, Target, int], None]] = field(default_factory=list)
    _idle: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def begin(self) -> None:
        """A request is being answered from now on, and draining waits for it. Raises Overloaded once the server drains."""
        if self.draining:
            raise Overloaded("the server is shutting down", hint="Send it to another one, or later.")
        self.in_flight += 1
        self._idle.clear()

    def end(self) -> None:
        """A request that began is answered, and what it used is written down."""
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.set()

    def count(self, tenant: str, target: Target, tokens: int) -> None:
        """Tokens were generated."""
        for counter in self.counters:
            counter(tenant, target, tokens)

    def observe(self, observation: Observation) -> None:
        """A request ended. An observer that fails keeps nobody from anything."""
        for observer in self.observers:
            try:
                observer(observation)
            except Exception:
                _LOG.exception("request %s could not be observed", observation.id)

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Do `work` to its end, also where the request that asks for it is cancelled meanwhile."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def drain(self) -> bool:
        """Take no more requests; whether all in flight ended within `limits.drain_seconds`."""
        self.draining = True
        return await self.idle_within(self.limits.drain_seconds)

    async def idle_within(self, seconds: float) -> bool:
        """Whether nothing is in flight, and all is written down; waits for that, at most so long."""
        if not self.in_flight:
            return True
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True
