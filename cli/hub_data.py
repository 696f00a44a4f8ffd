"""The hub that `adapt hub` commands work on: in the folder of --data, or with the database of --database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adapthub.hub.storage.database import Database


def open_database(data: Path | None, database: str | None) -> Database:
    """Its database."""
    from adapthub.adapters.home import home
    from adapthub.hub.storage.database import Database
    from adapthub.hub.storage.schema import HUB
    from adapthub.hub.store import DATABASE

    return Database((data or home() / "hub") / DATABASE if database is None else database, HUB)


def name_of(target: str) -> tuple[str, str]:
    """The namespace and the name in it that `namespace` or `namespace/name` says; the name "" is all of them."""
    from adapthub.hub.reference import Reference

    namespace, slash, name = target.partition("/")
    Reference(None, namespace, name if slash else "any")
    return namespace, name
