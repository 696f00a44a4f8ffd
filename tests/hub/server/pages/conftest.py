"""A hub with adapters to look at, served on loopback, and a browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from adapthub.hub.embedded import EmbeddedHub
from tests.browsing import chromium
from tests.hub.server.live import HubServer, live
from tests.hub.server.pages.filled import fill


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """Read it, and make no token of it: what a test writes others see."""
    folder = tmp_path_factory.mktemp("filled")
    with live(folder / "served") as server:
        fill(EmbeddedHub(server.data, cache=folder / "cache"), folder / "made")
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser
