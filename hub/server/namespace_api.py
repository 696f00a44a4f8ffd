"""Namespaces: organisations and members, the keys and gates that hold in them, and who is told of what happens there.

Changes need the role admin in the namespace (or a token of the scope admin); whoever has a role may look.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import unquote

from fastapi import APIRouter, Depends, Path
from pydantic import Field
from sqlalchemy.orm import Session

from adapthub.adapters.errors import Conflict
from adapthub.hub import gates, members, namespace_keys, webhooks
from adapthub.hub.access import Caller, require_role, require_write_scope
from adapthub.hub.gates import Gate
from adapthub.hub.reference import Reference
from adapthub.hub.server.dependencies import TheCaller, TheServing
from adapthub.hub.server.said import Said
from adapthub.hub.storage.governance_tables import WebhookRow
from adapthub.hub.storage.retrying import retried
from adapthub.hub.webhooks import Webhook

router = APIRouter(prefix="/api/namespaces/{namespace}", tags=["namespaces"])


def _namespace(namespace: Annotated[str, Path()]) -> str:
    return Reference(None, unquote(namespace), "any").namespace


Namespace = Annotated[str, Depends(_namespace)]


class Role(Said):
    """What a member may do."""

    role: Literal["read", "write", "admin"]


class Key(Said):
    """A public key, in PEM."""

    pem: Annotated[str, Field(max_length=2**14)]


class NewGate(Said):
    """What must hold before an alias moves; `name` empty: in every repository of the namespace."""

    alias: str
    name: str = ""
    signature: bool = False
    evaluations: tuple[str, ...] = ()
    reviewers: int = 0


class NewWebhook(Said):
    """Who is told of what; `name` empty: of every repository of the namespace."""

    url: str
    name: str = ""
    events: tuple[str, ...] = ()


@router.post("/create")
@retried
def create_organisation(namespace: Namespace, serving: TheServing, caller: TheCaller) -> dict[str, Any]:
    """Make an organisation of which the caller is admin; where something lies already, only an admin of the hub does."""
    with serving.store.database.writing() as session:
        require_role(session, caller, namespace, "write")
        if caller.scope != "admin" and members.has_repositories(session, namespace):
            raise Conflict(
                f"{namespace}/ has repositories already",
                hint="Ask an admin of this hub, or choose another name.",
            )
        made = members.create_organisation(session, namespace, str(caller.account), actor=caller.actor)
        return {"name": namespace, "admin": made.account}


@router.get("/members")
def list_members(namespace: Namespace, serving: TheServing, caller: TheCaller) -> list[dict[str, str]]:
    """Who has which role."""
    with serving.store.database.reading() as session:
        require_role(session, caller, namespace, "read")
        return [
            {"account": one.account, "role": one.role} for one in members.list_members(session, namespace)
        ]


@router.put("/members/{account}")
@retried
def set_member(
    namespace: Namespace, account: str, body: Role, serving: TheServing, caller: TheCaller
) -> dict[str, str]:
    """Give an account a role."""
    with serving.store.database.writing() as session:
        require_role(session, caller, namespace, "admin")
        made = members.set_member(session, namespace, unquote(account), body.role, actor=caller.actor)
        return {"account": made.account, "role": made.role}


@router.delete("/members/{account}")
@retried
def remove_member(
    namespace: Namespace, account: str, serving: TheServing, caller: TheCaller
) -> dict[str, str]:
    """Take an account's role away; anybody may leave."""
    name = unquote(account)
    with serving.store.database.writing() as session:
        require_role(session, caller, namespace, "read" if name == caller.account else "admin")
        require_write_scope(caller)
        gone = members.remove_member(session, namespace, name, actor=caller.actor)
        return {"account": gone.account, "role": gone.role}


@router.get("/keys")
def list_keys(namespace: Namespace, serving: TheServing, caller: TheCaller) -> list[dict[str, str]]:
    """The public keys that gates believe."""
    with serving.store.database.reading() as session:
        require_role(session, caller, namespace, "read")
        keys = namespace_keys.keys_of(session, namespace)
        return [{"name": key.name, "id": key.id, "pem": key.pem} for key in keys]


@router.put("/keys/{key}")
@retried
def add_key(
    namespace: Namespace, key: str, body: Key, serving: TheServing, caller: TheCaller
) -> dict[str, str]:
    """Believe signatures by a key."""
    with serving.store.database.writing() as session:
        require_role(session, caller, namespace, "admin")
        made = namespace_keys.add_key(session, namespace, unquote(key), body.pem, actor=caller.actor)
        return {"name": made.name, "id": made.id}


@router.delete("/keys/{key}")
@retried
def remove_key(namespace: Namespace, key: str, serving: TheServing, caller: TheCaller) -> dict[str, str]:
    """Believe it no longer."""
    with serving.store.database.writing() as session:
        require_role(session, caller, namespace, "admin")
        gone = namespace_keys.remove_key(session, namespace, unquote(key), actor=caller.actor)
        return {"name": gone.name, "id": gone.id}


@router.get("/gates")
def list_gates(namespace: Namespace, serving: TheServing, caller: TheCaller) -> list[dict[str, Any]]:
    """What must hold before which alias moves."""
    with serving.store.database.reading() as session:
        require_role(session, caller, namespace, "read")
        return [gate_item(gate) for gate in gates.list_gates(session, namespace)]


@router.put("/gates")
@retried
def set_gate(namespace: Namespace, body: NewGate, serving: TheServing, caller: TheCaller) -> dict[str, Any]:
    """Let a gate hold, in place of one for the same name and pattern."""
    gate = Gate(namespace, body.name, body.alias, body.signature, body.evaluations, body.reviewers)
    with serving.store.database.writing() as session:
        require_role(session, caller, namespace, "admin")
        return gate_item(gates.set_gate(session, gate, actor=caller.actor))


@router.delete("/gates")
@retried
def remove_gate(
    namespace: Namespace, alias: str, serving: TheServing, caller: TheCaller, name: str = ""
) -> dict[str, Any]:
    """Take a gate away."""
    with serving.store.database.writing() as session:
        require_role(session, caller, namespace, "admin")
        return gate_item(gates.remove_gate(session, namespace, name, alias, actor=caller.actor))


@router.get("/webhooks")
def list_webhooks(namespace: Namespace, serving: TheServing, caller: TheCaller) -> list[dict[str, Any]]:
    """Who is told of what, for the namespace's admins."""
    with serving.store.database.reading() as session:
        require_role(session, caller, namespace, "admin")
        return [webhook_item(one) for one in webhooks.list_all(session, namespace)]


@router.post("/webhooks")
@retried
def add_webhook(
    namespace: Namespace, body: NewWebhook, serving: TheServing, caller: TheCaller
) -> dict[str, Any]:
    """Tell an address. The answer has its secret, which is not shown again."""
    with serving.store.database.writing() as session:
        require_role(session, caller, namespace, "admin")
        made, secret = webhooks.add(
            session, namespace, body.url, name=body.name, events=body.events, actor=caller.actor
        )
        return {**webhook_item(made), "secret": secret}


@router.delete("/webhooks/{id}")
@retried
def remove_webhook(namespace: Namespace, id: str, serving: TheServing, caller: TheCaller) -> dict[str, Any]:
    """Tell it no more."""
    with serving.store.database.writing() as session:
        require_role(session, caller, namespace, "admin")
        return webhook_item(webhooks.remove(session, id, namespace=namespace, actor=caller.actor))


@router.post("/webhooks/{id}/test")
@retried
def test_webhook(namespace: Namespace, id: str, serving: TheServing, caller: TheCaller) -> dict[str, Any]:
    """Send it an event of the type ping, soon; `deliveries` shows what came of it."""
    with serving.store.database.writing() as session:
        row = _webhook(session, caller, namespace, id)
        return delivery_item(webhooks.ping(session, row))


@router.get("/webhooks/{id}/deliveries")
def deliveries(namespace: Namespace, id: str, serving: TheServing, caller: TheCaller) -> list[dict[str, Any]]:
    """What it was sent last, and what is still to be sent, newest first."""
    with serving.store.database.reading() as session:
        row = _webhook(session, caller, namespace, id)
        return [delivery_item(one) for one in webhooks.deliveries(session, row)]


def gate_item(gate: Gate) -> dict[str, Any]:
    """A gate as JSON."""
    return {
        "namespace": gate.namespace,
        "name": gate.name,
        "alias": gate.alias,
        "signature": gate.signature,
        "evaluations": list(gate.evaluations),
        "reviewers": gate.reviewers,
    }


def webhook_item(webhook: Webhook) -> dict[str, Any]:
    """A webhook as JSON, without its secret."""
    return {
        "id": webhook.id,
        "namespace": webhook.namespace,
        "name": webhook.name,
        "url": webhook.url,
        "events": list(webhook.events or webhooks.EVENTS),
        "created": webhook.created.isoformat(),
    }


def delivery_item(delivery: webhooks.Delivery) -> dict[str, Any]:
    """A delivery as JSON: `state` is "arrived", "waiting" or "given up"."""
    return {
        "event": delivery.event_id,
        "type": delivery.type,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "due": None if delivery.due is None else delivery.due.isoformat(),
        "answer": delivery.answer,
    }


def _webhook(session: Session, caller: Caller, namespace: str, id: str) -> WebhookRow:
    require_role(session, caller, namespace, "admin")
    return webhooks.require(session, id, namespace)
