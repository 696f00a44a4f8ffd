"""A hub's server from its settings to its end: the hub opened, a port taken, requests answered, and ended on a signal.

Does not define endpoints or configure logging.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import current_thread, main_thread

import uvicorn

from adapthub.adapters.errors import Conflict, InvalidSettings, StorageError
from adapthub.hub.accounts import any_token
from adapthub.hub.server.app import create_app
from adapthub.hub.server.serving import Limits, Serving
from adapthub.hub.server.webhook_sender import Sender, WebhookSettings

_LOG = logging.getLogger(__name__)
_POLL = 0.02  # seconds
_SWEEP = 600  # seconds
_TAILS = 10  # seconds that running requests get at the end
_BACKLOG = 2048
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


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


@dataclass(frozen=True)
class Running:
    """A server that takes requests at `address`, a URL; `stop` ends it, from any thread."""

    serving: Serving
    address: str
    stop: Callable[[], None]


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
        with _listener(settings) as listener:
            sender.start()
            asyncio.run(_run(serving, listener, announce))
    finally:
        sender.close()
        serving.close()


async def _run(serving: Serving, listener: socket.socket, announce: Callable[[Running], None]) -> None:
    server = _Server(
        uvicorn.Config(
            create_app(serving),
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=_TAILS,
        )
    )
    loop = asyncio.get_running_loop()

    def end() -> None:
        server.should_exit = True

    def stop() -> None:
        with suppress(RuntimeError):  # the loop is closed: the server has ended
            loop.call_soon_threadsafe(end)

    with _signals(loop, end):
        task = asyncio.create_task(server.serve([listener]))
        while not server.started and not task.done():
            await asyncio.sleep(_POLL)
        if server.started:
            announce(Running(serving, _address(listener), stop))
        sweeping = asyncio.create_task(_sweep(serving))
        await task
        sweeping.cancel()


async def _sweep(serving: Serving) -> None:
    """Remove what uploads left, now and then."""
    while True:
        try:
            await asyncio.to_thread(serving.sweep)
        except StorageError as error:
            _LOG.error("what uploads left was not removed: %s", error)
        await asyncio.sleep(_SWEEP)


class _Server(uvicorn.Server):
    """uvicorn's, without its signals: it would end by the signal once more when it is done."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextmanager
def _signals(loop: asyncio.AbstractEventLoop, end: Callable[[], None]) -> Iterator[None]:
    """Within: the first signal to end calls `end`, a second one ends the process. Only on the main thread."""
    if current_thread() is not main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def first() -> None:
        for number in before:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        end()

    for number in before:
        loop.add_signal_handler(number, first)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


def _check_host(serving: Serving, host: str) -> None:
    if host in _LOOPBACK:
        return
    with serving.store.database.reading() as session:
        if not any_token(session):
            raise InvalidSettings(
                f"without a token everybody who reaches {host} reads everything",
                hint="Make one with adapt hub token create, or serve on 127.0.0.1.",
            )


def _listener(settings: ServerSettings) -> socket.socket:
    """The port. Raises Conflict where it is taken, InvalidSettings for a host that is none."""
    where = f"port {settings.port} of {settings.host}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, OverflowError) as error:
        raise InvalidSettings(f"{where} cannot be served: {error}") from error
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(f"{where} is in use", hint="Choose another port; 0 is any free one.") from error
        raise InvalidSettings(f"{where} cannot be served: {error.strerror or error}") from error
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
