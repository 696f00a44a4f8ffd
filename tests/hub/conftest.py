"""Every registry that this build has, for the suite that all of them run through."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from adapthub.hub.connection import Connection
from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.registry import Registry
from adapthub.hub.remote import RemoteHub
from tests.hub.empty import make_empty
from tests.hub.postgres import Postgres, postgres, programs
from tests.hub.server.live import Servers


@pytest.fixture(scope="session")
def new_database() -> Iterator[Postgres]:
    """Makes an empty PostgreSQL database and gives its URL."""
    if programs() is None:
        pytest.skip("PostgreSQL is not installed")
    with postgres() as new:
        yield new


@dataclass(frozen=True)
class Registries:
    """Opens registries of one kind, each kept in a folder; opening one twice is opening the same one. `end` lets go of what
    runs for one."""

    open: Callable[[Path], Registry]
    end: Callable[[Path], None] = lambda folder: None

    def __call__(self, folder: Path) -> Registry:
        return self.open(folder)


@contextmanager
def served() -> Iterator[Registries]:
    """Hubs by HTTP, served on loopback, to an account that may do everything."""
    tokens: dict[Path, str] = {}
    with Servers() as servers:

        def open_served(folder: Path) -> Registry:
            server = servers(folder)
            if folder not in tokens:
                tokens[folder] = server.token("ada", "admin")
            return RemoteHub(Connection(server.url, tokens[folder]), cache=folder / "cache")

        yield Registries(open_served, servers.end)


def open_embedded(folder: Path) -> Registry:
    """The hub that is kept in a folder, an empty one where there is none."""
    root = folder / "hub"
    return EmbeddedHub(root if root.exists() else make_empty(root), cache=folder / "cache")


@pytest.fixture(
    scope="module", params=["embedded", "served", pytest.param("postgres", marks=pytest.mark.slow)]
)
def open_registry(request: pytest.FixtureRequest) -> Iterator[Registries]:
    """How to open a registry of each kind."""
    match request.param:
        case "embedded":
            yield Registries(open_embedded)
        case "served":
            with served() as registries:
                yield registries
        case _:
            urls: defaultdict[Path, str] = defaultdict(request.getfixturevalue("new_database"))
            yield Registries(
                lambda folder: EmbeddedHub(folder / "hub", cache=folder / "cache", database=urls[folder])
            )


@pytest.fixture
def registry(open_registry: Registries, tmp_path: Path) -> Iterator[Registry]:
    """An empty registry of each kind."""
    yield open_registry(tmp_path)
    open_registry.end(tmp_path)
