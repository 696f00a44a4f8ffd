"""A running server, as an administrator's command asks it over HTTP.

Does not show what it answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from adapthub.adapters.errors import AdaptHubError
from adapthub.cli.output import json_option

Command = TypeVar("Command", bound=Callable[..., Any])
ADDRESS = "http://127.0.0.1:8000"
_PATIENCE = 30.0  # seconds for what only reads


def asking(command: Command) -> Command:
    """The options of every command that asks a running server."""
    key_option = click.option(
        "--key",
        envvar="ADAPTHUB_KEY",
        help="An administrator's. Default: $ADAPTHUB_KEY; none without tenants.",
    )
    url_option = click.option("--url", default=ADDRESS, show_default=True, help="Where the server is.")
    return url_option(key_option(json_option(command)))


class Server:
    """One server by its address. Both methods raise AdaptHubError where it does not answer, and with what it refused."""

    def __init__(self, url: str, key: str | None) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def get(self, path: str) -> Any:
        """What it says."""
        return self._ask("GET", path, timeout=_PATIENCE)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """What it says once it has done so, however long that takes."""
        return self._ask("POST", path, json=body, timeout=None)

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        import httpx2

        try:
            answer = httpx2.request(method, self._url + path, headers=self._headers, **options)
            content = answer.json()
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise AdaptHubError(
                f"no server answers at {self._url}: {error}", hint="Name it with --url, or start adapt serve."
            ) from error
        except ValueError as error:
            raise AdaptHubError(
                f"what answers at {self._url} is no server of AdaptHub", hint="Name it with --url."
            ) from error
        if answer.is_success:
            return content
        raise AdaptHubError(_message(content) or f"{self._url}{path} answered {answer.status_code}")


def _message(content: Any) -> str | None:
    error = content.get("error") if isinstance(content, dict) else None
    return error.get("message") if isinstance(error, dict) else None
