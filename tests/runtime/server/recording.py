"""A gate that remembers what it was asked, for one caller."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from adapthub.runtime.server.lifecycle import Running
from adapthub.runtime.tenants.caller import Caller
from adapthub.runtime.tenants.gate import OpenGate, UsageRecord
from tests.web.live import eventually


@dataclass
class RecordingGate(OpenGate):
    """Lets everybody in. `refusing`: an error that it answers the next admission with."""

    records: list[UsageRecord] = field(default_factory=list)
    admitted: list[int] = field(default_factory=list)
    given_back: list[int] = field(default_factory=list)
    refusing: Exception | None = None
    failing: Exception | None = None  # what recording raises

    def admit(self, caller: Caller, tokens: int) -> None:
        if self.refusing is not None:
            raise self.refusing
        self.admitted.append(tokens)

    async def record(self, usage: UsageRecord, admitted: int) -> None:
        await asyncio.sleep(0)  # a real one waits for the disk
        if self.failing is not None:
            raise self.failing
        self.records.append(usage)
        self.given_back.append(admitted)


def idle(server: Running) -> None:
    """Wait until nothing runs, and all is written down."""
    load = server.serving.runtime.generation
    eventually(
        lambda: server.serving.in_flight == 0 and load.load.running == 0 and load.load.waiting == 0,
        "something still runs",
    )
