"""Where adapters live: references, the registry contract, the embedded hub, the cache of pulled adapters.

    from adapthub.hub import open_hub
    hub = open_hub()
    hub.push(artifact, "acme/ner", alias="prod")
    hub.pull("acme/ner@prod")

Importing this package loads no database: a hub does when it is opened.
"""

from __future__ import annotations

from pathlib import Path

from adapthub.adapters.errors import InvalidSettings
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


def open_hub(where: Path | str | None = None) -> Registry:
    """Open a hub: the embedded one in AdaptHub's home, or the embedded one in the folder `where`, a Path.

    Raises InvalidSettings for any other hub, StorageError when the folder cannot be used.
    """
    if isinstance(where, str):
        raise InvalidSettings(
            f"cannot open the hub {where!r}: this version of AdaptHub opens embedded hubs only",
            hint="Call open_hub() for the one in AdaptHub's home, or open_hub(Path(...)) for another.",
        )
    from adapthub.hub.embedded import EmbeddedHub

    return EmbeddedHub(where)
