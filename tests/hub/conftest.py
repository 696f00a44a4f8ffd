"""Every registry that this build has, for the suite that all of them run through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.registry import Registry


def open_embedded(folder: Path) -> Registry:
    return EmbeddedHub(folder / "hub", cache=folder / "cache")


REGISTRIES: dict[str, Callable[[Path], Registry]] = {"embedded": open_embedded}
"""A kind of registry, and how to open one that is kept in a folder; opening it twice is opening the same
one."""


@pytest.fixture(params=REGISTRIES)
def open_registry(request: pytest.FixtureRequest) -> Callable[[Path], Registry]:
    """How to open a registry of each kind."""
    return REGISTRIES[request.param]


@pytest.fixture
def registry(open_registry: Callable[[Path], Registry], tmp_path: Path) -> Registry:
    """An empty registry of each kind."""
    return open_registry(tmp_path)
