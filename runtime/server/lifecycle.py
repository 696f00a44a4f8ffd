"""A server from its settings to its end: the base loaded, adapters registered, requests answered, and drained on a signal.

Does not define endpoints.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import uvicorn
from fastapi import FastAPI

from adapthub.adapters.errors import InvalidSettings
from adapthub.hub import open_hub
from adapthub.hub.registry import Registry
from adapthub.runtime.generation import Limits
from adapthub.runtime.runtime import Runtime
from adapthub.runtime.server.app import create_app
from adapthub.runtime.server.catalog import Catalog
from adapthub.runtime.server.protocol import BoundedProtocol
from adapthub.runtime.server.serving import ServerLimits, Serving
from adapthub.runtime.tenants.gate import Gate, OpenGate

_LOG = logging.getLogger(__name__)
_POLL = 0.02  # seconds
_THREADS = 64  # for what may take long: adapters pulled, prompts tokenised, grammars compiled
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class ServerSettings:
    """What is served where. `adapters`: patterns of names ("acme/*"); those without a wildcard are loaded before the server
    is ready. `slots` and `limits` as for Runtime. `port` 0: any free one."""

    base: str
    quantize: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    adapters: Sequence[str] = ("*",)
    host: str = "127.0.0.1"
    port: int = 8000
    slots: int | None = None
    limits: Limits | None = None
    server: ServerLimits = field(default_factory=ServerLimits)


@dataclass(frozen=True)
class Running:
    """A server that takes requests at `address`, a URL; `stop` lets it drain and end, from any thread."""

    serving: Serving
    address: str
    stop: Callable[[], None]


def serve(
    settings: ServerSettings,
    *,
    hub: Registry | None = None,
    gate: Gate | None = None,
    announce: Callable[[Running], None] = lambda _: None,
) -> None:
    """Serve until a signal to end, then drain. `announce` is called once requests are taken.

    Raises InvalidSettings for a server without tenants that others than this machine could reach, and what loading raises.
    """
    gate = gate or OpenGate()
    if gate.open and settings.host not in _LOOPBACK:
        raise InvalidSettings(
            f"without tenants everybody who reaches {settings.host} is an administrator",
            hint="Add one with adapt tenant add, or serve on 127.0.0.1.",
        )
    hub = hub or open_hub()
    with Runtime(
        settings.base,
        settings.quantize,
        settings.device,
        settings.dtype,
        hub=hub,
        slots=settings.slots,
        limits=settings.limits,
    ) as runtime:
        catalog = Catalog(runtime, hub, settings.base, settings.adapters)
        serving = Serving(runtime, hub, catalog, gate, settings.server)
        try:
            asyncio.run(_run(serving, settings, announce))
        finally:
            gate.close()


async def _run(serving: Serving, settings: ServerSettings, announce: Callable[[Running], None]) -> None:
    # asyncio's own pool is a few threads: as many slow downloads of adapters would hold up everybody's prompts.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS, "server-work"))
    app = create_app(serving)
    app.router.lifespan_context = _lifespan
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            http=cast(
                "type[asyncio.Protocol]", partial(BoundedProtocol, seconds=settings.server.body_seconds)
            ),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(settings.server.drain_seconds) + 5,
        )
    )

    def stop() -> None:
        server.should_exit = True

    task = asyncio.create_task(server.serve())
    while not server.started and not task.done():
        await asyncio.sleep(_POLL)
    if server.started:
        port = server.servers[0].sockets[0].getsockname()[1]
        announce(Running(serving, f"http://{settings.host}:{port}", stop))
    await task


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    serving: Serving = app.state.serving
    await asyncio.to_thread(_warm, serving)
    serving.ready = True
    yield
    serving.ready = False
    if not await serving.drain():
        _LOG.warning("%d requests were still running when the server ended", serving.in_flight)


def _warm(serving: Serving) -> None:
    """Find out whether the base generates, and make what that needs, before the first request."""
    try:
        _ = serving.runtime.generation
    except InvalidSettings as error:
        _LOG.info("this base does not generate: %s", error)
