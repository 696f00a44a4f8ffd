"""`adapt hub webhook`: who is told of what happens. The hub's webhooks do all of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adapthub.cli.hub_names import name_of
from adapthub.cli.hub_tokens import hub_database
from adapthub.cli.options import data_options
from adapthub.cli.output import announce, json_option, show_json, show_table

if TYPE_CHECKING:
    from adapthub.hub.webhooks import Webhook


@click.group()
def webhook() -> None:
    """Tell other programs what happens: commits, versions, aliases, refusals, deletions.

    \b
    Example:
      $ adapt hub webhook list
    """


@webhook.command()
@click.argument("target", metavar="NAME")
@click.argument("url")
@click.option(
    "--event", "events", multiple=True, metavar="EVENT", help="Only this one. Repeatable. Default: all."
)
@data_options
@json_option
def add(
    target: str, url: str, events: tuple[str, ...], data: Path | None, database: str | None, as_json: bool
) -> None:
    """Tell URL what happens to NAME, and print the secret that it is signed with.

    NAME is namespace/name, or a namespace alone for all that is in it. Events: commit, version, alias.moved,
    gate.refused, repo.deleted. The secret is shown this once; a receiver checks what it gets with it (Standard Webhooks).
    Sent by adapt hub serve.

    \b
    Example:
      $ adapt hub webhook add acme/ner https://ci.example.com/hook --event alias.moved
    """
    from adapthub.hub import webhooks

    namespace, name = name_of(target)
    with hub_database(data, database).writing() as session:
        made, secret = webhooks.add(session, namespace, url, name=name, events=events)
    if as_json:
        show_json({**_record(made), "secret": secret})
    else:
        announce(f"This is the secret of {made.id}; it is not shown again.")
        click.echo(secret)


@webhook.command("list")
@click.argument("namespace", required=False)
@data_options
@json_option
def list_(namespace: str | None, data: Path | None, database: str | None, as_json: bool) -> None:
    """List the webhooks of NAMESPACE, or all.

    \b
    Example:
      $ adapt hub webhook list acme --json
    """
    from adapthub.hub import webhooks

    with hub_database(data, database).reading() as session:
        records = [_record(one) for one in webhooks.list_all(session, namespace)]
    if as_json:
        show_json(records)
    else:
        columns = ("id", "namespace", "name", "url", "events")
        show_table(records, columns, empty="No webhooks yet: adapt hub webhook add NAME URL.")


@webhook.command()
@click.argument("id")
@data_options
@json_option
def remove(id: str, data: Path | None, database: str | None, as_json: bool) -> None:
    """Tell the webhook ID no more, not even what waits to be sent.

    \b
    Example:
      $ adapt hub webhook remove wh_0123456789ab
    """
    from adapthub.hub import webhooks

    with hub_database(data, database).writing() as session:
        record = _record(webhooks.remove(session, id))
    if as_json:
        show_json(record)
    else:
        click.echo(f"Removed {record['id']}: {record['url']}")


@webhook.command()
@click.argument("id")
@click.option("--to-private", is_flag=True, help="Also to an address off the public internet.")
@data_options
@json_option
def test(id: str, to_private: bool, data: Path | None, database: str | None, as_json: bool) -> None:
    """Send the webhook ID an event of the type ping from here, once, and say what came of it.

    \b
    Example:
      $ adapt hub webhook test wh_0123456789ab
    """
    import asyncio

    from adapthub.adapters.errors import NotFound
    from adapthub.hub import webhooks
    from adapthub.hub.server.webhook_sender import WebhookSettings, send

    with hub_database(data, database).reading() as session:
        delivery = webhooks.ping_of(webhooks.require(session, id))
    answer = asyncio.run(send(delivery, WebhookSettings(private=to_private)))
    if not answer.arrived:
        raise NotFound(f"{delivery.url} did not take it: {answer.words}")
    if as_json:
        show_json({"id": id, "event": delivery.event_id, "answer": answer.words})
    else:
        click.echo(f"{delivery.url} took it: {answer.words}")


def _record(one: Webhook) -> dict[str, Any]:
    from adapthub.hub.webhooks import EVENTS

    return {
        "id": one.id,
        "namespace": one.namespace,
        "name": one.name or None,
        "url": one.url,
        "events": list(one.events or EVENTS),
    }
