"""Webhooks: who is told of what happens, and the outbox of what they are still to be told.

An event is put in the outbox by the transaction of what it tells, so that it is sent exactly of what happened; it is sent at
least once (server/webhook_sender), and has an id by which a receiver knows one that comes again. Sends nothing.

What is sent is signed as Standard Webhooks says: `webhook-signature` is "v1," and the base64 of HMAC-SHA256 over
"<webhook-id>.<webhook-timestamp>.<body>", with the secret's bytes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from adapthub.adapters.errors import InvalidSettings, NotFound
from adapthub.adapters.suggest import did_you_mean
from adapthub.hub import audit
from adapthub.hub.audit import MACHINE, Actor, AuditEntry
from adapthub.hub.reference import Reference
from adapthub.hub.room import check_room
from adapthub.hub.storage.governance_tables import DeliveryRow, WebhookRow

EVENTS = (
    "commit",
    "version",
    "signature",
    "alias.moved",
    "gate.refused",
    "history.rewritten",
    "repo.deleted",
)
PING = "ping"
_SECRET = "whsec_"
_LONGEST_URL = 2000
MOST_WEBHOOKS = 20
"""Of one namespace: all of them are told of an event in the transaction of what it tells."""


@dataclass(frozen=True)
class Delivery:
    """An event on its way: what is sent, and where to. `answer` is what came of the last attempt; `due` None: it is over."""

    id: int
    event_id: str
    type: str
    body: str
    url: str
    secret: str
    attempts: int
    due: datetime | None
    arrived: datetime | None
    answer: str | None

    @property
    def state(self) -> str:
        """ "arrived", "waiting" or "given up"."""
        if self.arrived is not None:
            return "arrived"
        return "given up" if self.due is None else "waiting"


@dataclass(frozen=True)
class Webhook:
    """Who is told of what: of one repository, or of all in a namespace (`name` ""). `events` empty is all of EVENTS."""

    id: str
    namespace: str
    name: str
    url: str
    events: tuple[str, ...]
    created: datetime


def add(
    session: Session,
    namespace: str,
    url: str,
    *,
    name: str = "",
    events: Sequence[str] = (),
    actor: Actor = MACHINE,
) -> tuple[Webhook, str]:
    """A new webhook, and its secret, which is not shown again. Raises InvalidReference, InvalidSettings, and Conflict where
    the namespace has MOST_WEBHOOKS."""
    Reference(None, namespace, name or "any")
    _check_url(url)
    for event in events:
        if event not in EVENTS:
            raise InvalidSettings(
                f"there is no event {event!r}",
                hint=did_you_mean(event, EVENTS) or f"Use {', '.join(EVENTS)}.",
            )
    audit.lock(session)
    check_room(session, WebhookRow.namespace, namespace, "webhooks", most=MOST_WEBHOOKS)
    row = WebhookRow(
        id=f"wh_{secrets.token_hex(6)}",
        namespace=namespace,
        name=name,
        url=url,
        secret=_SECRET + base64.b64encode(secrets.token_bytes(32)).decode(),
        events=sorted(set(events)),
        created=datetime.now(UTC),
    )
    session.add(row)
    session.flush()
    audit.record(
        session, actor, "webhook.added", namespace=namespace, repo=_repo(row), id=row.id, host=_host(url)
    )
    return _webhook(row), row.secret


def list_all(session: Session, namespace: str | None = None) -> list[Webhook]:
    """All webhooks, or those of one namespace, by age."""
    query = select(WebhookRow).order_by(WebhookRow.created, WebhookRow.id)
    if namespace is not None:
        query = query.where(WebhookRow.namespace == namespace)
    return [_webhook(row) for row in session.scalars(query)]


def remove(session: Session, id: str, *, namespace: str | None = None, actor: Actor = MACHINE) -> Webhook:
    """Tell it no more, not even what is in the outbox. Raises NotFound."""
    audit.lock(session)  # whoever tells it something now has it from before or not at all
    row = require(session, id, namespace)
    webhook = _webhook(row)
    session.execute(delete(DeliveryRow).where(DeliveryRow.webhook_id == row.id))
    session.delete(row)
    session.flush()
    audit.record(session, actor, "webhook.removed", namespace=row.namespace, repo=_repo(row), id=id)
    return webhook


def require(session: Session, id: str, namespace: str | None = None) -> WebhookRow:
    """The webhook of that id (and namespace). Raises NotFound."""
    row = session.get(WebhookRow, id)
    if row is None or namespace not in (None, row.namespace):
        raise NotFound(
            f"there is no webhook {id[:40]!r}", hint="adapt hub webhook list shows those that there are."
        )
    return row


def ping(session: Session, row: WebhookRow) -> Delivery:
    """Put an event in its outbox that says nothing but that it can be reached."""
    delivery = DeliveryRow(**_event(row, PING, datetime.now(UTC), {"webhook": row.id}))
    session.add(delivery)
    session.flush()
    return delivery_of(delivery, row)


def ping_of(row: WebhookRow) -> Delivery:
    """Such an event that is in no outbox, to be sent at once."""
    return delivery_of(DeliveryRow(**_event(row, PING, datetime.now(UTC), {"webhook": row.id})), row)


def tell(session: Session, entries: Sequence[AuditEntry]) -> None:
    """Put what was just recorded, of one repository or none, in the outbox of every webhook that is to be told of it."""
    events = [entry for entry in entries if entry.action in EVENTS and entry.repo is not None]
    if not events:
        return
    namespace, _, name = (events[0].repo or "").partition("/")
    query = select(WebhookRow).where(WebhookRow.namespace == namespace, WebhookRow.name.in_(("", name)))
    hooks = session.scalars(query).all()
    told = [
        _event(hook, entry.action, entry.time, _told(entry))
        for entry in events
        for hook in hooks
        if not hook.events or entry.action in hook.events
    ]
    if told:
        session.execute(insert(DeliveryRow), told)


def _told(entry: AuditEntry) -> dict[str, Any]:
    return {"repo": entry.repo, "actor": entry.actor, "audit": entry.number, **entry.detail}


def deliveries(session: Session, row: WebhookRow, *, limit: int = 100) -> list[Delivery]:
    """What a webhook was sent or is to be sent, newest first."""
    query = select(DeliveryRow).where(DeliveryRow.webhook_id == row.id).order_by(DeliveryRow.id.desc())
    return [delivery_of(one, row) for one in session.scalars(query.limit(limit))]


def headers_of(delivery: Delivery, now: datetime) -> dict[str, str]:
    """The headers of one attempt at `now`, which a receiver checks against its own clock."""
    timestamp = str(int(now.timestamp()))
    signed = f"{delivery.event_id}.{timestamp}.{delivery.body}".encode()
    key = base64.b64decode(delivery.secret.removeprefix(_SECRET))
    signature = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return {
        "content-type": "application/json",
        "user-agent": "AdaptHub",
        "webhook-id": delivery.event_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{signature}",
    }


def delivery_of(row: DeliveryRow, webhook: WebhookRow) -> Delivery:
    """A row of the outbox of `webhook`."""
    return Delivery(
        row.id,
        row.event_id,
        row.type,
        row.body,
        webhook.url,
        webhook.secret,
        row.attempts,
        row.due,
        row.arrived,
        row.answer,
    )


def _event(row: WebhookRow, type_: str, when: datetime, data: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of an event for one webhook."""
    document = {"type": type_, "timestamp": when.isoformat(), "data": data}
    return {
        "webhook_id": row.id,
        "event_id": f"evt_{secrets.token_hex(12)}",
        "type": type_,
        "body": json.dumps(document, separators=(",", ":")),
        "created": when,
        "due": when,
        "attempts": 0,
    }


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
    except ValueError:
        wrong = True
    if wrong or len(url) > _LONGEST_URL or not url.isascii() or not url.isprintable() or " " in url:
        raise InvalidSettings(
            f"{url[:120]!r} is no address to send to", hint="Write https://host/path, in ASCII."
        )
    if parts.username is not None or parts.fragment:
        raise InvalidSettings(
            "the address has a user, a password or a fragment",
            hint="The secret says who sends; leave them out.",
        )


def _webhook(row: WebhookRow) -> Webhook:
    return Webhook(row.id, row.namespace, row.name, row.url, tuple(row.events), row.created)


def _repo(row: WebhookRow) -> str | None:
    return f"{row.namespace}/{row.name}" if row.name else None


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""
