"""`adapt hub`: a hub for others, and who may use it. The hub's server does all of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adapthub.cli.hub_audit import audit
from adapthub.cli.hub_bases import base
from adapthub.cli.hub_gates import approve, gate, key
from adapthub.cli.hub_login import login
from adapthub.cli.hub_members import account, member, org
from adapthub.cli.hub_mirror import mirror
from adapthub.cli.hub_quota import quota
from adapthub.cli.hub_tokens import token
from adapthub.cli.hub_upkeep import backup, check, gc, restore
from adapthub.cli.hub_webhooks import webhook
from adapthub.cli.leaderboard import leaderboard
from adapthub.cli.options import data_options
from adapthub.cli.output import json_option, show_json
from adapthub.cli.tenant_options import duration

if TYPE_CHECKING:
    from adapthub.hub.server.lifecycle import Running


def rate(text: str) -> tuple[int, int]:
    """`1000/5m`: requests, and in how many seconds."""
    number, _, time = text.partition("/")
    if not number.isascii() or not number.isdigit() or not 0 < int(number) < 10**9:
        raise click.BadParameter(f"{text!r} is no rate. Write requests and a time, such as 1000/5m.")
    return int(number), max(1, int(duration(time).total_seconds()))


@click.group()
def hub() -> None:
    """A hub of your own, for Hugging Face's clients too.

    \b
    Example:
      $ adapt hub token create ada --scope write
      $ adapt hub serve --port 7860
    """


_COMMANDS = (
    *(token, login, account, org, member, quota),
    *(gate, key, approve, webhook, audit),
    *(mirror, base, leaderboard),
    *(gc, check, backup, restore),
)
for command in _COMMANDS:
    hub.add_command(command)


@hub.command()
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Another than this machine needs a token."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=7860, show_default=True, help="0: any free one."
)
@data_options
@click.option("--blobs", metavar="URL", help="s3://bucket/prefix. Default: blobs/ in the data folder.")
@click.option(
    "--rate-limit",
    type=rate,
    metavar="N/TIME",
    help="Requests of one token, or of one address without, such as 1000/5m. Default: any.",
)
@click.option(
    "--webhooks-to-private", is_flag=True, help="Send webhooks to addresses off the public internet too."
)
@json_option
def serve(
    host: str,
    port: int,
    data: Path | None,
    database: str | None,
    blobs: str | None,
    rate_limit: tuple[int, int] | None,
    webhooks_to_private: bool,
    as_json: bool,
) -> None:
    """Serve the hub in a folder to others, by HTTP.

    What adapt push published here is there at once, and what others upload is there for adapt pull. Point
    Hugging Face's clients at it with HF_ENDPOINT. Reading needs no token but for what is private; writing does.
    Logs go to stderr, a line a request, as JSON where that is no terminal. SIGTERM and Ctrl-C let running
    requests end; a second one does not.

    \b
    Example:
      $ adapt hub serve
      $ adapt hub serve --data /srv/hub --host 0.0.0.0 --database postgresql://hub@db/hub --blobs s3://adapters
    """
    from adapthub.adapters.home import home
    from adapthub.hub.server.lifecycle import ServerSettings
    from adapthub.hub.server.lifecycle import serve as serve_until_signal
    from adapthub.hub.server.serving import Limits
    from adapthub.hub.server.webhook_sender import WebhookSettings
    from adapthub.web import logs

    settings = ServerSettings(
        data=data or home() / "hub",
        host=host,
        port=port,
        database=database,
        blobs=blobs,
        limits=Limits(rate=rate_limit),
        webhooks=WebhookSettings(private=webhooks_to_private),
    )
    with logs.shown(sys.stderr):
        serve_until_signal(settings, announce=lambda running: _show_ready(running, settings, as_json))


def _show_ready(running: Running, settings: Any, as_json: bool) -> None:
    if as_json:
        show_json({"address": running.address, "data": str(settings.data)})
        sys.stdout.flush()
        return
    click.echo(f"The hub in {settings.data} is at {running.address}")
    click.echo(f"\n  export HF_ENDPOINT={running.address}\n")
