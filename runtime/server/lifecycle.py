"""A server from its settings to its end: its port taken, the base and adapters loaded, requests answered, and drained on a
signal; a second signal ends it at once.

Does not define endpoints or configure logging.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import sys
from collections import ChainMap
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from adapthub.adapters.errors import InvalidSettings
from adapthub.adapters.home import home
from adapthub.hub import open_hub
from adapthub.hub.registry import Registry
from adapthub.runtime.feedback import FeedbackStore
from adapthub.runtime.generation import Limits
from adapthub.runtime.redaction import Redaction
from adapthub.runtime.runtime import Runtime
from adapthub.runtime.scheduler import Scheduler
from adapthub.runtime.server import observation, release_watch
from adapthub.runtime.server.app import create_app
from adapthub.runtime.server.catalog import Catalog
from adapthub.runtime.server.errors import refusal_body
from adapthub.runtime.server.feedback_log import FeedbackLog
from adapthub.runtime.server.releases import Releases
from adapthub.runtime.server.serving import ServerLimits, Serving
from adapthub.runtime.server.shadow import NOBODY
from adapthub.runtime.tenants.gate import Gate
from adapthub.runtime.tenants.tenant_gate import open_gate
from adapthub.web import running, this_machine
from adapthub.web.listening import listener
from adapthub.web.protocol import BoundedProtocol

_LOG = logging.getLogger(__name__)
_THREADS = 64  # for what may take long: adapters pulled, prompts tokenised, grammars compiled
_SWITCH = 0.0002  # seconds that one thread may keep Python while another waits for it
_SHADOWS = 0.01  # the weight of shadows: tenants that wait go first
_TAILS = 5  # seconds in which clients take the last of what was sent to them, once all requests have ended
_SETTLING = 15  # seconds in which what cancelled requests used is written down


@dataclass(frozen=True)
class ServerSettings:
    """What is served where. `adapters`: patterns of names ("acme/*"); those without a wildcard, which may have a revision
    ("acme/sql@prod"), are loaded before the server is ready; every revision of them is served. `slots` and `limits` as for
    Runtime. `port` 0: any free one. `request_log`: what masks prompts and answers before they are written down, for
    feedback; None to write none down."""

    base: str
    quantize: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    adapters: Sequence[str] = ("*",)
    host: str = "127.0.0.1"
    port: int = 8000
    slots: int | None = None
    limits: Limits | None = None
    request_log: Redaction | None = None
    server: ServerLimits = field(default_factory=ServerLimits)


Running: TypeAlias = running.Running[Serving]


def serve(
    settings: ServerSettings,
    *,
    hub: Registry | None = None,
    gate: Gate | None = None,
    announce: Callable[[Running], None] = lambda _: None,
) -> None:
    """Serve until a signal to end, then drain. `announce` is called once requests are taken.

    Raises InvalidSettings for a server without tenants that others than this machine could reach, Conflict for a port that
    is taken, and what loading the base and the adapters raises.
    """
    gate = gate or open_gate()
    if gate.open and not this_machine.is_private(settings.host):
        raise InvalidSettings(
            f"without tenants everybody who reaches {settings.host} is an administrator",
            hint="Add one with adapt tenant add, or serve on 127.0.0.1.",
        )
    hub = hub or open_hub()
    limits = settings.limits or Limits()
    with (
        listener(settings.host, settings.port) as port,
        Runtime(
            settings.base,
            settings.quantize,
            settings.device,
            settings.dtype,
            hub=hub,
            slots=settings.slots,
            limits=limits,
            scheduler=Scheduler(
                weights=ChainMap({NOBODY: _SHADOWS}, gate.weights),  # type: ignore[arg-type]  # read only
                queue_limit=limits.queue_limit,
            ),
        ) as runtime,
    ):
        serving = assemble(runtime, hub, settings, gate)
        try:
            with _soon_interrupted():
                asyncio.run(_run(serving, port, announce))
        finally:
            gc.unfreeze()
            gate.close()
            serving.feedback.close()


def assemble(runtime: Runtime, hub: Registry, settings: ServerSettings, gate: Gate) -> Serving:
    """What endpoints share, over a runtime that is loaded. Raises StorageError for releases that cannot be read."""
    fingerprint = runtime.base.fingerprint.digest.removeprefix("sha256:")
    releases = Releases(home() / "releases" / f"{fingerprint[:16]}.json")
    catalog = Catalog(runtime, hub, settings.base, settings.adapters, releases)
    serving = Serving(runtime, hub, catalog, gate, settings.server)
    serving.feedback = FeedbackLog(FeedbackStore(), settings.request_log)
    serving.observers.append(observation.note)
    release_watch.watch(serving)
    return serving


async def _run(serving: Serving, port: socket.socket, announce: Callable[[Running], None]) -> None:
    # asyncio's own pool is a few threads: as many slow downloads of adapters would hold up everybody's prompts.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS, "server-work"))
    await asyncio.to_thread(_warm, serving)
    await serving.catalog.preload()
    # What is there now stays: each time it were looked through for garbage, everybody would wait for a third of a second.
    gc.collect()
    gc.freeze()
    app = create_app(serving)
    serving.ready = True
    protocol = partial(BoundedProtocol, seconds=serving.limits.body_seconds, error_body=refusal_body)
    await running.run(
        app, serving, port, protocol, announce=announce, drain=partial(_drain, serving), tails=_TAILS
    )
    # uvicorn has cancelled what is left and does not wait for it; with the loop, what was used would be lost.
    if not await serving.idle_within(_SETTLING):
        _LOG.error("what %d requests used was not written down", serving.in_flight)
    if app.state.traces is not None:
        await asyncio.to_thread(app.state.traces.close)


async def _drain(serving: Serving) -> None:
    """Let what runs end, while others hear that this server takes nothing more."""
    if not await serving.drain():
        _LOG.warning("%d requests were still running when the server ended", serving.in_flight)


@contextmanager
def _soon_interrupted() -> Iterator[None]:
    """Within: what writes answers hands Python over to the engine soon. By default it may keep it for 5 ms, of which the
    engine, back from the processor's or GPU's work, would wait for a part at every step."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _warm(serving: Serving) -> None:
    """Find out whether the base generates, and make what that needs, before the first request."""
    try:
        _ = serving.runtime.generation
    except InvalidSettings as error:
        _LOG.info("this base does not generate: %s", error)
