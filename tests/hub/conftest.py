"""Every registry that this build has, for the suite that all of them run through."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.registry import Registry
from tests.hub.postgres import Postgres, postgres, programs


def open_embedded(folder: Path) -> Registry:
    return EmbeddedHub(folder / "hub", cache=folder / "cache")


@pytest.fixture(scope="session")
def new_database() -> Iterator[Postgres]:
    """Makes an empty PostgreSQL database and gives its URL."""
    if programs() is None:
        pytest.skip("PostgreSQL is not installed")
    with postgres() as new:
        yield new


REGISTRIES: dict[str, Callable[[Path], Registry]] = {"embedded": open_embedded}
"""A kind of registry, and how to open one that is kept in a folder; opening it twice is opening the same
one."""


@pytest.fixture(scope="module", params=[*REGISTRIES, pytest.param("postgres", marks=pytest.mark.slow)])
def open_registry(request: pytest.FixtureRequest) -> Callable[[Path], Registry]:
    """How to open a registry of each kind."""
    if request.param != "postgres":
        return REGISTRIES[request.param]
    urls: defaultdict[Path, str] = defaultdict(request.getfixturevalue("new_database"))
    return lambda folder: EmbeddedHub(folder / "hub", cache=folder / "cache", database=urls[folder])


@pytest.fixture
def registry(open_registry: Callable[[Path], Registry], tmp_path: Path) -> Registry:
    """An empty registry of each kind."""
    return open_registry(tmp_path)
