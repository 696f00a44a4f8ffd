"""What happens to a hub, said once: written to the audit log, and put in the outbox of the webhooks that are told of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from adapthub.hub import audit, webhooks
from adapthub.hub.audit import Actor, Event


def happened(
    session: Session,
    actor: Actor,
    action: str,
    *,
    namespace: str | None = None,
    repo: str | None = None,
    **detail: Any,
) -> None:
    """Record it in the caller's transaction, after what it says was done (audit.record)."""
    happened_together(session, actor, [Event(action, namespace=namespace, repo=repo, detail=detail)])


def happened_together(session: Session, actor: Actor, events: Sequence[Event]) -> None:
    """As `happened`, of what one actor did to one repository or none, in this order."""
    webhooks.tell(session, audit.record_together(session, actor, events))
