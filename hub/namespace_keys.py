"""The public keys whose signatures the gates of a namespace believe. Verifies nothing (signing does)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from adapthub.adapters.errors import Conflict, NotFound
from adapthub.adapters.suggest import did_you_mean
from adapthub.hub import audit
from adapthub.hub.audit import MACHINE, Actor
from adapthub.hub.reference import Reference
from adapthub.hub.room import check_room
from adapthub.hub.storage.governance_tables import NamespaceKeyRow

if TYPE_CHECKING:
    from adapthub.hub.signing_keys import PublicKey


def add_key(session: Session, namespace: str, name: str, pem: str, *, actor: Actor = MACHINE) -> PublicKey:
    """Believe signatures by the public key of this PEM text. Raises InvalidReference, InvalidInput, Conflict for a name that
    another key has, and where the namespace has too many."""
    from adapthub.hub.signing_keys import parse_public_key

    Reference(None, namespace, name)
    key = parse_public_key(pem.encode(errors="replace"), name)
    row = session.get(NamespaceKeyRow, (namespace, name))
    if row is not None:
        if row.key_id == key.id:
            return key
        raise Conflict(f"{namespace} has another key {name} already", hint="Remove it first.")
    audit.lock(session)
    check_room(session, NamespaceKeyRow.namespace, namespace, "keys")
    session.add(
        NamespaceKeyRow(namespace=namespace, name=name, key_id=key.id, pem=key.pem, added=datetime.now(UTC))
    )
    session.flush()
    audit.record(session, actor, "key.added", namespace=namespace, name=name, key=key.id)
    return key


def remove_key(session: Session, namespace: str, name: str, *, actor: Actor = MACHINE) -> PublicKey:
    """Believe it no longer. Raises NotFound."""
    row = session.get(NamespaceKeyRow, (namespace, name))
    if row is None:
        known = [key.name for key in keys_of(session, namespace)]
        raise NotFound(f"{namespace} has no key {name[:100]!r}", hint=did_you_mean(name, known))
    key = _key(row)
    session.delete(row)
    session.flush()
    audit.record(session, actor, "key.removed", namespace=namespace, name=name, key=key.id)
    return key


def keys_of(session: Session, namespace: str) -> list[PublicKey]:
    """The keys of a namespace, by name."""
    rows = select(NamespaceKeyRow).where(NamespaceKeyRow.namespace == namespace)
    return [_key(row) for row in session.scalars(rows.order_by(NamespaceKeyRow.name))]


def _key(row: NamespaceKeyRow) -> PublicKey:
    from adapthub.hub.signing_keys import parse_public_key

    return parse_public_key(row.pem.encode(), row.name)
