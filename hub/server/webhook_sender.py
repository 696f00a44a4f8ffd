"""Sends what is in the outbox of the webhooks, for as long as a server runs.

A delivery is taken with a lease before it is sent and marked after it was answered: killed in between, it is sent again
once the lease has run out, by whichever server takes it then. Any answer from 200 to 299 is an arrival; any other, or none
in time, is tried again, later each time, until it is given up after about three days. Each attempt begins when another has
ended, and a namespace has a few of them at most: receivers that never answer hold up those of their own namespace alone.

A receiver's name is looked up once for each attempt, and that address is connected to; one that is not of the public
internet is refused unless the server was told to send there (so that nobody makes a hub talk to what only the hub can
reach). Redirects are not followed, proxies of the environment are not used, and of an answer only its status is read.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import random
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import httpx2
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session, selectinload

from adapthub.adapters.errors import AdaptHubError
from adapthub.hub.storage.database import Database
from adapthub.hub.storage.governance_tables import DeliveryRow, WebhookRow
from adapthub.hub.storage.retrying import retried
from adapthub.hub.webhooks import Delivery, delivery_of, headers_of

_LOG = logging.getLogger(__name__)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_PUBLIC_6 = ipaddress.ip_network("2000::/3")  # all that is given out of IPv6
_SCHEDULE = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
_JITTER = 0.1
_KEPT = 1000  # deliveries of one webhook that are over


@dataclass(frozen=True)
class WebhookSettings:
    """How webhooks are sent. `private`: also to addresses that are not of the public internet; `seconds`: that one attempt
    may take; `schedule`: seconds before each further attempt; `poll`: seconds between looks into the outbox; `at_once`: how
    many are sent at once, and `each` those of one namespace."""

    private: bool = False
    seconds: float = 10.0
    schedule: Sequence[float] = _SCHEDULE
    poll: float = 0.5
    at_once: int = 64
    each: int = 4

    @property
    def lease(self) -> timedelta:
        """How long a delivery that was taken is nobody else's."""
        return timedelta(seconds=3 * self.seconds)


class Sender:
    """Sends from a thread of its own until it is closed. Several servers may send from one database."""

    def __init__(self, database: Database, settings: WebhookSettings) -> None:
        self._database = database
        self._settings = settings
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def close(self) -> None:
        """End, after the attempts that are under way. Idempotent."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                send_due(self._database, self._settings, self._closed)
            except AdaptHubError as error:  # the database is away; it comes back
                _LOG.warning("webhooks wait: %s", error)
            except Exception:  # a defect of ours: what waits must not wait for ever
                _LOG.exception("webhooks were not sent")
            self._closed.wait(self._settings.poll)


def send_due(database: Database, settings: WebhookSettings, closed: threading.Event | None = None) -> int:
    """Send what is due until nothing is, or nothing more once it is `closed`. How many attempts that were."""
    return asyncio.run(_send_due(database, settings, closed or threading.Event()))


async def _send_due(database: Database, settings: WebhookSettings, closed: threading.Event) -> int:
    running: dict[asyncio.Task[None], str] = {}
    begun = 0
    while True:
        if not closed.is_set():
            busy = Counter(running.values())
            for namespace, delivery in await asyncio.to_thread(_take, database, settings, busy):
                running[asyncio.create_task(_attempt(database, settings, delivery))] = namespace
                begun += 1
        if not running:
            return begun
        done, _ = await asyncio.wait(running, timeout=settings.poll, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            del running[task]
            task.result()


async def _attempt(database: Database, settings: WebhookSettings, delivery: Delivery) -> None:
    answer = await send(delivery, settings)
    await asyncio.to_thread(_mark, database, delivery, answer, settings)


@retried
def _take(
    database: Database, settings: WebhookSettings, busy: Mapping[str, int]
) -> list[tuple[str, Delivery]]:
    """Deliveries to begin now, each with its namespace; nobody else takes them for as long as the lease lasts. `busy`: how
    many of each namespace are under way."""
    with database.reading() as session:
        chosen = _choose(session, settings, busy)
    if not chosen:
        return []
    now = datetime.now(UTC)
    query = (
        select(DeliveryRow)
        .where(DeliveryRow.id.in_(chosen), DeliveryRow.due <= now)
        .options(selectinload(DeliveryRow.webhook))
        .with_for_update(skip_locked=True)
    )
    with database.writing() as session:
        taken = []
        for row in session.scalars(query).all():
            taken.append((row.webhook.namespace, delivery_of(row, row.webhook)))
            row.attempts += 1
            row.due = now + settings.lease
    return taken


def _choose(session: Session, settings: WebhookSettings, busy: Mapping[str, int]) -> list[int]:
    """The keys of what is due, the longest waiting first, as far as there is room for them."""
    room = settings.at_once - sum(busy.values())
    share = Counter(busy)
    chosen: list[int] = []
    while room > 0:
        full = [namespace for namespace, count in share.items() if count >= settings.each]
        query = (
            select(DeliveryRow.id, WebhookRow.namespace)
            .join(WebhookRow, WebhookRow.id == DeliveryRow.webhook_id)
            .where(DeliveryRow.due <= datetime.now(UTC), DeliveryRow.id.not_in(chosen))
            .where(WebhookRow.namespace.not_in(full))
            .order_by(DeliveryRow.due, DeliveryRow.id)
            .limit(room)
        )
        found = session.execute(query).all()
        for id, namespace in found:
            if share[namespace] < settings.each:
                share[namespace] += 1
                chosen.append(id)
        if len(found) < room:
            break
        room = settings.at_once - sum(share.values())
    return chosen


@dataclass(frozen=True)
class Answer:
    """What came of one attempt: in words, and whether that is an arrival."""

    arrived: bool
    words: str


async def send(delivery: Delivery, settings: WebhookSettings) -> Answer:
    """One attempt."""
    try:
        async with asyncio.timeout(settings.seconds):
            status = await _post(delivery, settings)
    except TimeoutError:
        return Answer(False, f"no answer in {settings.seconds:g} seconds")
    except _Refused as refusal:
        return Answer(False, str(refusal))
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        return Answer(False, " ".join(f"{type(error).__name__}: {error}".split())[:200])
    return Answer(200 <= status < 300, f"status {status}")


class _Refused(Exception):
    """An address that nothing is sent to."""


async def _post(delivery: Delivery, settings: WebhookSettings) -> int:
    parts = urlsplit(delivery.url)
    host = parts.hostname or ""
    address = await _address_of(host, parts.port or (443 if parts.scheme == "https" else 80), settings)
    shown = f"[{address}]" if ":" in address else address
    where = f"{shown}:{parts.port}" if parts.port else shown
    url = parts._replace(netloc=where).geturl()
    headers = {**headers_of(delivery, datetime.now(UTC)), "host": parts.netloc}
    # The name that the certificate must be for stays what was asked for.
    extensions: dict[str, Any] = {"sni_hostname": host}
    async with (
        httpx2.AsyncClient(
            timeout=settings.seconds,
            trust_env=False,
            follow_redirects=False,
            verify=_certificates() if parts.scheme == "https" else False,
        ) as client,
        client.stream(
            "POST", url, content=delivery.body.encode(), headers=headers, extensions=extensions
        ) as answer,
    ):
        return answer.status_code


@cache
def _certificates() -> ssl.SSLContext:
    """Those that are trusted; they are many, and read once."""
    return httpx2.create_ssl_context()


async def _address_of(host: str, port: int, settings: WebhookSettings) -> str:
    """The address to connect to. Raises _Refused for one that nothing may be sent to."""
    addresses = await _look_up(host, port)
    for address in addresses:
        if settings.private or is_public(address):
            return address
    raise _Refused(
        f"{host} is {', '.join(dict.fromkeys(addresses))[:100]}, which is not of the public internet:"
        " start the server with --webhooks-to-private to send there"
    )


async def _look_up(host: str, port: int) -> list[str]:
    """The addresses of a name. In a thread that nobody waits for: nothing ends a resolver that hangs."""
    loop = asyncio.get_running_loop()
    asked: asyncio.Future[list[str]] = loop.create_future()

    def settle(found: list[str] | Exception) -> None:
        if asked.done():  # given up
            return
        if isinstance(found, Exception):
            asked.set_exception(found)
        else:
            asked.set_result(found)

    def look_up() -> None:
        found: list[str] | Exception
        try:
            every = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found = [str(sockaddr[0]) for *_, sockaddr in every]
        except Exception as error:
            found = error
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, found)

    threading.Thread(target=look_up, name="webhook-name", daemon=True).start()
    return await asked


def is_public(text: str) -> bool:
    """Whether an address is of the public internet, also where it is an IPv4 address in an IPv6 one."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)))
        if address.ipv4_mapped is not None:
            return is_public(str(address.ipv4_mapped))
        if address not in _PUBLIC_6 or address.sixtofour is not None or address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast


@retried
def _mark(database: Database, delivery: Delivery, answer: Answer, settings: WebhookSettings) -> None:
    """Write down what came of an attempt; nothing, where its webhook was removed meanwhile."""
    now, before = datetime.now(UTC), delivery.attempts
    due = None
    if not answer.arrived and before < len(settings.schedule):
        due = now + timedelta(seconds=settings.schedule[before] * random.uniform(1, 1 + _JITTER))
    with database.writing() as session:
        session.execute(
            update(DeliveryRow)
            .where(DeliveryRow.id == delivery.id)
            .values(answer=answer.words, arrived=now if answer.arrived else None, due=due)
        )
        webhook_id = session.scalar(select(DeliveryRow.webhook_id).where(DeliveryRow.id == delivery.id))
        if webhook_id is not None:
            _forget_old(session, webhook_id)


def _forget_old(session: Session, webhook_id: str) -> None:
    """Keep the newest deliveries of a webhook, and all that are not over."""
    own = DeliveryRow.webhook_id == webhook_id
    newest = select(DeliveryRow.id).where(own).order_by(DeliveryRow.id.desc())
    last = session.scalar(newest.offset(_KEPT).limit(1))
    if last is not None:
        session.execute(delete(DeliveryRow).where(own, DeliveryRow.id <= last, DeliveryRow.due.is_(None)))
