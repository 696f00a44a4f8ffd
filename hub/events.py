"""What happens to a hub, said once: written to the audit log, and put in the outbox of the webhooks that are told of it."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from adapthub.hub import audit, webhooks
from adapthub.hub.audit import Actor


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
    webhooks.tell(session, audit.record(session, actor, action, namespace=namespace, repo=repo, **detail))
