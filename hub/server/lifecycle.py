"""A hub's server from its settings to its end: the hub opened, a port taken, requests answered, and ended on a signal.

Does not define endpoints or configure logging.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import current_thread, main_thread
from typing import TypeAlias

from adapthub.adapters.errors import InvalidSettings, StorageError
from adapthub.hub.accounts import any_token
from adapthub.hub.server.app import create_app
from adapthub.hub.server.errors import error_body
from adapthub.hub.server.serving import Limits, Serving
from adapthub.hub.server.webhook_sender import Sender, WebhookSettings
from adapthub.web import running, this_machine
from adapthub.web.listening import listener
from adapthub.web.protocol import BoundedProtocol

_LOG = logging.getLogger(__name__)
_SWEEP = 600  # seconds
_TAILS = 10  # seconds that running requests get at the end


@dataclass(frozen=True)
class ServerSettings:
    """What is served where. `data`: the hub's folder; `database` and `blobs`: URLs, where they are elsewhere; `port` 0: any
    free one."""

    data: Path
    host: str = "127.0.0.1"
    port: int = 7860
    database: str | None = None
    blobs: str | None = None
    limits: Limits = field(default_factory=Limits)
    webhooks: WebhookSettings = field(default_factory=WebhookSettings)


Running: TypeAlias = running.Running[Serving]


def serve(settings: ServerSettings, *, announce: Callable[[Running], None] = lambda _: None) -> None:
    """Serve until a signal to end. `announce` is called once requests are taken.

    Raises InvalidSettings for a hub without tokens that others than this machine could reach, Conflict for a port that is
    taken, StorageError where the hub cannot be opened.
    """
    serving = Serving.open(
        settings.data, database=settings.database, blobs=settings.blobs, limits=settings.limits
    )
    sender = Sender(serving.store.database, settings.webhooks)
    try:
        _check_host(serving, settings.host)
        with listener(settings.host, settings.port) as port:
            sender.start()
            asyncio.run(_run(serving, port, announce))
    finally:
        sender.close()
        serving.close()


async def _run(serving: Serving, port: socket.socket, announce: Callable[[Running], None]) -> None:
    limits = serving.limits
    protocol = partial(
        BoundedProtocol, seconds=limits.body_seconds, rate=limits.body_rate, error_body=error_body
    )
    app = create_app(serving)
    if current_thread() is main_thread():
        # Looking through everything for garbage holds up everybody for a quarter of a second: `_sweep` does it now and then,
        # and what is there by then stays. Young objects are looked through as ever.
        gc.set_threshold(700, 10, 1_000_000)
    sweeping = asyncio.create_task(_sweep(serving))
    await running.run(app, serving, port, protocol, announce=announce, tails=_TAILS)
    sweeping.cancel()


async def _sweep(serving: Serving) -> None:
    """Now and then remove what uploads left, and garbage; what is not garbage is not looked through again."""
    alone = current_thread() is main_thread()
    while True:
        if alone:
            gc.collect()
            gc.freeze()
        try:
            await asyncio.to_thread(serving.sweep)
        except StorageError as error:
            _LOG.error("what uploads left was not removed: %s", error)
        await asyncio.sleep(_SWEEP)


def _check_host(serving: Serving, host: str) -> None:
    if this_machine.is_private(host):
        return
    with serving.store.database.reading() as session:
        if not any_token(session):
            raise InvalidSettings(
                f"without a token everybody who reaches {host} reads everything",
                hint="Make one with adapt hub token create, or serve on 127.0.0.1.",
            )
