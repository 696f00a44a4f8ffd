"""The hubs that somebody logged in to: their names, addresses and tokens, in a file for its owner's eyes alone.

    hubs.json    {"acme": {"url": "https://hub.acme.example", "token": "ah_..."}}

Two names are always there: `hf`, the public hub (or the one in HF_ENDPOINT) with the token of `hf auth login`, and `local`,
the embedded hub. A token is only ever given for the very address that it was stored for. Asks no hub anything.
"""

from __future__ import annotations

import json
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from adapthub.adapters.errors import InvalidSettings, StorageError
from adapthub.adapters.files import write_bytes
from adapthub.adapters.home import home, make_folder
from adapthub.adapters.suggest import did_you_mean
from adapthub.hub.connection import origin_of
from adapthub.hub.reference import Reference

PUBLIC = "hf"
LOCAL = "local"


@dataclass(frozen=True)
class KnownHub:
    """A hub by its `name` (None where it has none), its `url` without a slash at the end, and the token for it."""

    name: str | None
    url: str
    token: str | None = field(default=None, repr=False)


def find_hub(where: str) -> KnownHub:
    """The hub of that name or at that URL. Raises InvalidSettings, suggesting near names."""
    if where == PUBLIC:
        return _public()
    known = known_hubs()
    if where in known:
        return known[where]
    if "://" not in where:
        raise InvalidSettings(
            f"there is no hub {where!r} here",
            hint=did_you_mean(where, [*known, PUBLIC, LOCAL]) or "Write its address: http://host:port.",
        )
    url = _address(where)
    return next((hub for hub in known.values() if hub.url == url), None) or KnownHub(None, url)


def known_hubs() -> dict[str, KnownHub]:
    """Those that somebody logged in to, by name. Raises StorageError where the file cannot be read."""
    return {name: KnownHub(name, hub["url"], hub.get("token")) for name, hub in _read().items()}


def remember_hub(url: str, token: str, name: str | None = None) -> KnownHub:
    """Keep the token for a hub; its name is `name`, or the host's. Raises InvalidSettings, InvalidReference."""
    url = _address(url)
    with _locked():
        known = known_hubs()
        if name is None:
            name = next((hub.name for hub in known.values() if hub.url == url), None) or _host(url)
        Reference(name, "a", "b")  # a name that a reference may begin with
        if name in (PUBLIC, LOCAL):
            raise InvalidSettings(f"the name {name} means another hub", hint="Choose one with --name.")
        if name in known and known[name].url != url:
            raise InvalidSettings(
                f"{name} is {known[name].url}", hint="Choose another name, or log out of it."
            )
        kept = {key: hub for key, hub in _read().items() if hub["url"] != url}
        _write({**kept, name: {"url": url, "token": token}})
    return KnownHub(name, url, token)


def forget_hub(where: str) -> KnownHub:
    """Forget a hub and its token. Raises InvalidSettings where nobody logged in to it."""
    hub = find_hub(where)
    if hub.name is None or hub.name == PUBLIC:
        raise InvalidSettings(
            f"nobody is logged in to {hub.url} by adapt login",
            hint="Use hf auth logout." if hub.name == PUBLIC else None,
        )
    with _locked():
        _write({name: entry for name, entry in _read().items() if name != hub.name})
    return hub


def why_offline(hub: KnownHub) -> str | None:
    """Why nothing may be asked of a hub, if so: HF_HUB_OFFLINE is of the public one and of those in its place."""
    from huggingface_hub.constants import is_offline_mode

    return "HF_HUB_OFFLINE is set" if hub.name == PUBLIC and is_offline_mode() else None


def _public() -> KnownHub:
    from huggingface_hub import constants, get_token

    return KnownHub(PUBLIC, os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/"), get_token())


def _address(url: str) -> str:
    """`url` without what no hub's address has. Raises InvalidSettings."""
    origin_of(url)
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InvalidSettings("the address of a hub has no user, query or fragment", hint="Leave them out.")
    return url.rstrip("/")


def _host(url: str) -> str:
    scheme, host, port = origin_of(url)
    usual = port == {"http": 80, "https": 443}[scheme]
    return host.replace(":", "_").replace("[", "").replace("]", "") + ("" if usual else f"_{port}")


def _path() -> Path:
    return home() / "hubs.json"


def _locked() -> AbstractContextManager[object]:
    """Within: nobody else changes the file. Raises StorageError where the disk refuses."""
    from filelock import FileLock

    try:
        make_folder(_path().parent)
        return FileLock(_path().with_suffix(".lock"))
    except OSError as error:
        raise StorageError(f"cannot write {_path()}: {error.strerror or error}") from error


def _read() -> dict[str, Any]:
    try:
        text = _path().read_text()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StorageError(f"cannot read {_path()}: {error.strerror or error}") from error
    try:
        found = json.loads(text)
        if not all(isinstance(hub["url"], str) for hub in found.values()):
            raise ValueError
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise StorageError(f"{_path()} is damaged", hint="Remove it, and log in again.") from error
    return dict(found)


def _write(hubs: dict[str, Any]) -> None:
    write_bytes(_path(), (json.dumps(hubs, indent=2) + "\n").encode())
