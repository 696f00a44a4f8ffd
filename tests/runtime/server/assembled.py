"""A server's parts without its port: requests begin as its endpoints begin them, administrators come by its application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from adapthub.hub.registry import Registry
from adapthub.runtime.runtime import Runtime
from adapthub.runtime.sampling import Sampling
from adapthub.runtime.server.answering import begin
from adapthub.runtime.server.app import create_app
from adapthub.runtime.server.catalog import Target
from adapthub.runtime.server.lifecycle import assemble
from adapthub.runtime.server.observation import Observation
from adapthub.runtime.server.serving import Serving
from adapthub.runtime.tenants.caller import LOCAL
from adapthub.runtime.tenants.gate import Gate, OpenGate
from tests.runtime.server.live import settings_for


@dataclass
class Assembled:
    """`admin` asks the application as an administrator; `seen` has every observation."""

    serving: Serving
    admin: httpx2.AsyncClient
    seen: list[Observation] = field(default_factory=list)

    async def ask(
        self, model: str, prompt: str = "ada was born", user: str | None = None, **sampling: Any
    ) -> tuple[Target, str]:
        """What `model` meant at admission, and its greedy text."""
        settings: dict[str, Any] = {"max_new_tokens": 8, "temperature": 0, "ignore_eos": True}
        text = ""
        async with self.serving.catalog.admitted(model, LOCAL, user) as target:
            ids = self.serving.runtime.generation.prompt_ids(prompt)
            async with await begin(
                self.serving, LOCAL, target, "completion", [ids], [Sampling(**(settings | sampling))]
            ) as answer:
                async for _, event in answer:
                    text += event.text
        return target, text

    async def post(self, path: str, **body: Any) -> Any:
        """An administrator's request that is to succeed."""
        answer = await self.admin.post(path, json=body)
        assert answer.is_success, answer.text
        return answer.json()


@asynccontextmanager
async def assembled(
    base: Path, hub: Registry, *, gate: Gate | None = None, slots: int | None = None, **options: object
) -> AsyncIterator[Assembled]:
    settings = settings_for(base, **options)
    with Runtime(settings.base, hub=hub, slots=slots, limits=settings.limits) as runtime:
        serving = assemble(runtime, hub, settings, gate or OpenGate())
        transport = httpx2.ASGITransport(app=create_app(serving))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as admin:
            found = Assembled(serving, admin)
            serving.observers.append(found.seen.append)
            yield found


async def settled(condition: Callable[[], bool]) -> None:
    """Until what was spawned came that far."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)
