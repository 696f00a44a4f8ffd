"""A real browser on the page of a server that runs adapters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, expect

from tests.browsing import Seen, opened


@contextmanager
def browsing(browser: Browser, address: str, **context: Any) -> Iterator[Seen]:
    """The page of a server, once it shows numbers or says why not."""
    with opened(browser, address, **context) as seen:
        expect(seen.page.locator("#state")).not_to_be_empty()
        yield seen
