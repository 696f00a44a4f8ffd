"""The pictures of the hub's pages in docs/screenshots: a real server over a small hub of made-up adapters, in Chromium.

    python -m docs.hub_screenshots

The adapters' weights and numbers are invented: what is shown is the pages.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser

from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.server.pages.visitors import COOKIE
from tests.browsing import chromium
from tests.hub.server.live import live
from tests.hub.server.pages.filled import fill

OUT = Path(__file__).parent / "screenshots"
SCREEN: Any = {"width": 1120, "height": 800}
PHONE: Any = {"width": 360, "height": 740}
BOARD = "/leaderboard?task=text-classification&metric=accuracy"
PICTURES = (
    ("hub-browse-light", "/", SCREEN),
    ("hub-browse-dark", "/?metric=f1>=0.8", SCREEN),
    ("hub-adapter-light", "/acme/ner", SCREEN),
    ("hub-adapter-dark", "/acme/ner/tree/prod", SCREEN),
    ("hub-adapter-phone-light", "/acme/ner", PHONE),
    ("hub-diff-light", "/acme/ner/diff/v1..v4", SCREEN),
    ("hub-compare-dark", "/compare?ref=acme/ner&ref=acme/ner-news&ref=acme/ner-legal", SCREEN),
    ("hub-leaderboard-light", BOARD, SCREEN),
    ("hub-leaderboard-dark", BOARD, SCREEN),
    ("hub-tensors-light", "/acme/ner/blob/v4/adapter_model.safetensors", SCREEN),
)
FIRST_SCREENS = {"hub-adapter-dark", "hub-adapter-phone-light", "hub-audit-light", "hub-audit-dark"}
AUDITED = (
    ("hub-audit-light", "/audit?verify=1", SCREEN),
    ("hub-audit-dark", "/audit?repo=acme/ner", SCREEN),
)


def main() -> None:
    """Take them all."""
    with tempfile.TemporaryDirectory() as folder, live(Path(folder) / "served") as server:
        fill(EmbeddedHub(server.data, cache=Path(folder) / "cache"), Path(folder) / "made")
        with chromium() as browser:
            for picture in PICTURES:
                _take(browser, server.url, *picture)
            # Last: once there is a token, the pages of nobody say so.
            session = {"name": COOKIE, "value": server.token("ada", "admin"), "url": server.url}
            for picture in AUDITED:
                _take(browser, server.url, *picture, cookies=[session])


def _take(browser: Browser, url: str, name: str, address: str, screen: Any, cookies: Any = ()) -> None:
    scheme: Any = name.rpartition("-")[2]
    with browser.new_context(color_scheme=scheme, viewport=screen) as context:
        context.add_cookies(cookies)
        page = context.new_page()
        page.goto(url + address)
        page.locator("[role=status][aria-busy]").wait_for(state="detached", timeout=120_000)
        page.screenshot(path=OUT / f"{name}.png", full_page=name not in FIRST_SCREENS)


if __name__ == "__main__":
    main()
