"""Every registry that this build has, for the suite that all of them run through."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from adapthub.hub.connection import Connection
from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.registry import Registry
from adapthub.hub.remote import RemoteHub
from tests.hub.empty import make_empty
from tests.hub.postgres import Postgres, postgres, programs
from tests.hub.server.live import HubServer, live


@pytest.fixture(scope="session")
def new_database() -> Iterator[Postgres]:
    """Makes an empty PostgreSQL database and gives its URL."""
    if programs() is None:
        pytest.skip("PostgreSQL is not installed")
    with postgres() as new:
        yield new


@contextmanager
def served() -> Iterator[Callable[[Path], Registry]]:
    """Opens hubs by HTTP, each kept in a folder and served on loopback, to an account that may do everything."""
    with ExitStack() as running:
        servers: dict[Path, HubServer] = {}
        tokens: dict[Path, str] = {}

        def open_served(folder: Path) -> Registry:
            if folder not in servers:
                servers[folder] = running.enter_context(live(folder / "hub"))
                tokens[folder] = servers[folder].token("ada", "admin")
            return RemoteHub(Connection(servers[folder].url, tokens[folder]), cache=folder / "cache")

        yield open_served
        for server in servers.values():
            server.running.stop()  # all at once: each takes a moment


def open_embedded(folder: Path) -> Registry:
    """The hub that is kept in a folder, an empty one where there is none."""
    root = folder / "hub"
    return EmbeddedHub(root if root.exists() else make_empty(root), cache=folder / "cache")


@pytest.fixture(
    scope="module", params=["embedded", "served", pytest.param("postgres", marks=pytest.mark.slow)]
)
def open_registry(request: pytest.FixtureRequest) -> Iterator[Callable[[Path], Registry]]:
    """How to open a registry of each kind, kept in a folder; opening it twice is opening the same one."""
    match request.param:
        case "embedded":
            yield open_embedded
        case "served":
            with served() as open_served:
                yield open_served
        case _:
            urls: defaultdict[Path, str] = defaultdict(request.getfixturevalue("new_database"))
            yield lambda folder: EmbeddedHub(folder / "hub", cache=folder / "cache", database=urls[folder])


@pytest.fixture
def registry(open_registry: Callable[[Path], Registry], tmp_path: Path) -> Registry:
    """An empty registry of each kind."""
    return open_registry(tmp_path)
