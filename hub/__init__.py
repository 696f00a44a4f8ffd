"""Where adapters live: references, the registry contract, the embedded hub, the cache of pulled adapters.

    from adapthub.hub import open_hub
    hub = open_hub()
    hub.push(artifact, "acme/ner", alias="prod")
    hub.pull("acme/ner@prod")

Importing this package loads no database: a hub does when it is opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from adapthub.hub.reference import Reference
from adapthub.hub.registry import (
    Alias,
    Ancestor,
    Details,
    Entry,
    Facts,
    Fit,
    Lineage,
    Metric,
    Move,
    Registry,
    StoredFile,
    Version,
)

__all__ = [
    "Alias",
    "Ancestor",
    "Details",
    "Entry",
    "Facts",
    "Fit",
    "Lineage",
    "Metric",
    "Move",
    "Reference",
    "Registry",
    "StoredFile",
    "Version",
    "open_hub",
]


def open_hub(where: Path | str | None = None, *, watch: Callable[[int, int], None] | None = None) -> Registry:
    """Open a hub. References such as `hf::org/name` reach other hubs through it.

    `where`: the address of one by HTTP ("https://hub.acme.example"), "hf" for the public one, the name of one that
    `adapt login` keeps, "local" for the embedded one in AdaptHub's home, or a Path, the folder of another embedded one.
    None: what the environment variable ADAPTHUB_HUB says, else the embedded one. Hubs by HTTP are asked nothing yet.
    `watch` is told how far a pull is: bytes that are here, and bytes in all.

    Raises InvalidSettings for a hub that is not known, StorageError when a folder cannot be used.
    """
    if isinstance(where, Path):
        from adapthub.hub.embedded import EmbeddedHub

        return EmbeddedHub(where)
    from adapthub.hub.many_hubs import ManyHubs

    return ManyHubs(
        _open_named(where or os.environ.get("ADAPTHUB_HUB") or "local", watch),
        lambda name: _open_named(name, watch),
    )


def _open_named(where: str, watch: Callable[[int, int], None] | None) -> Registry:
    if where == "local":
        from adapthub.hub.embedded import EmbeddedHub

        return EmbeddedHub()
    from adapthub.hub.connection import Connection
    from adapthub.hub.downloading import unwatched
    from adapthub.hub.known_hubs import find_hub, why_offline
    from adapthub.hub.remote import RemoteHub

    hub = find_hub(where)
    connection = Connection(hub.url, hub.token, offline=why_offline(hub))
    return RemoteHub(connection, name=hub.name, watch=watch or unwatched)
