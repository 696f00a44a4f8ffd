"""`adapt login`, `logout`, `whoami`: which hubs somebody has a token for. `hub/known_hubs` keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from adapthub.cli.options import hub_option
from adapthub.cli.output import announce, json_option, show_json

if TYPE_CHECKING:
    from adapthub.hub.known_hubs import KnownHub


@click.command()
@click.argument("url")
@click.option("--name", help="What to call the hub in references, name::acme/ner. Default: its host.")
@click.option(
    "--token", metavar="TOKEN", help="Default: asked for, or read from stdin where that is no terminal."
)
@json_option
def login(url: str, name: str | None, token: str | None, as_json: bool) -> None:
    """Log in to the hub at URL, and keep the token.

    Somebody who runs the hub makes it: adapt hub token create NAME. It is kept in AdaptHub's home, for your eyes alone, and
    only ever sent to this address. For the public hub use hf auth login.

    \b
    Example:
      $ adapt login http://127.0.0.1:7860 --name acme
      $ adapt push runs/ner/adapter acme/ner --hub acme
    """
    from adapthub.adapters.errors import InvalidSettings
    from adapthub.hub.known_hubs import PUBLIC, KnownHub, remember_hub

    if url == PUBLIC:
        raise InvalidSettings("the public hub has a login of its own", hint="Use hf auth login.")
    given = (token or click.prompt("Token", hide_input=True, err=True)).strip()
    record = _who(KnownHub(name, url.rstrip("/"), given))
    hub = remember_hub(url, given, name)
    if not _is_safe(hub.url):
        announce(f"{hub.url} is not encrypted: whoever is on the way can read the token.")
    if as_json:
        show_json({**record, "hub": hub.name})
    else:
        click.echo(
            f"Logged in to {hub.url} as {record['name']}. Call it {hub.name}: {hub.name}::namespace/name."
        )


@click.command()
@click.argument("hub", metavar="HUB")
@json_option
def logout(hub: str, as_json: bool) -> None:
    """Forget a hub and its token.

    HUB is a name or an address. The token itself works on: adapt hub token revoke ends it.

    \b
    Example:
      $ adapt logout acme
    """
    from adapthub.hub.known_hubs import forget_hub

    gone = forget_hub(hub)
    if as_json:
        show_json({"hub": gone.name, "url": gone.url})
    else:
        click.echo(f"Forgot {gone.name} at {gone.url}.")


@click.command()
@hub_option
@json_option
def whoami(hub: str | None, as_json: bool) -> None:
    """Show who a hub takes you for.

    \b
    Example:
      $ adapt whoami --hub acme
    """
    import os

    from adapthub.adapters.errors import InvalidSettings
    from adapthub.hub.known_hubs import LOCAL, find_hub

    where = hub or os.environ.get("ADAPTHUB_HUB") or LOCAL
    if where == LOCAL:
        raise InvalidSettings("the hub on this machine knows nobody", hint="Name another hub.")
    record = _who(find_hub(where))
    if as_json:
        show_json(record)
    else:
        click.echo(f"{record['name']} at {record['url']} ({record['scope'] or 'unknown scope'})")


def _who(hub: KnownHub) -> dict[str, Any]:
    """Whom the hub takes the token's owner for. Raises Unauthorized, Unreachable."""
    from adapthub.hub.connection import Connection
    from adapthub.hub.known_hubs import why_offline
    from adapthub.hub.plain_documents import WhoDocument

    found = Connection(hub.url, hub.token, offline=why_offline(hub)).read(WhoDocument, "/api/whoami-v2")
    access = None if found.auth is None else found.auth.accessToken
    return {"name": found.name, "url": hub.url, "scope": None if access is None else access.role}


def _is_safe(url: str) -> bool:
    from ipaddress import ip_address
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
