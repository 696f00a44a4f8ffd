"""The pictures of the hub's pages in docs/screenshots: a real server over a small hub of made-up adapters, in Chromium.

    python -m docs.hub_screenshots

The adapters' weights and numbers are invented: what is shown is the pages.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from adapthub.hub.embedded import EmbeddedHub
from tests.browsing import chromium, opened
from tests.hub.server.live import live
from tests.hub.server.pages.filled import fill

OUT = Path(__file__).parent / "screenshots"
SCREEN: Any = {"width": 1120, "height": 800}
PHONE: Any = {"width": 360, "height": 740}
PICTURES = (
    ("hub-browse-light", "/", SCREEN),
    ("hub-browse-dark", "/?metric=f1>=0.8", SCREEN),
    ("hub-adapter-light", "/acme/ner", SCREEN),
    ("hub-adapter-dark", "/acme/ner/tree/prod", SCREEN),
    ("hub-adapter-phone-light", "/acme/ner", PHONE),
    ("hub-diff-light", "/acme/ner/diff/v1..v4", SCREEN),
    ("hub-compare-dark", "/compare?ref=acme/ner&ref=acme/ner-news&ref=acme/ner-legal", SCREEN),
    ("hub-tensors-light", "/acme/ner/blob/v4/adapter_model.safetensors", SCREEN),
)
FIRST_SCREENS = {"hub-adapter-dark", "hub-adapter-phone-light"}


def main() -> None:
    """Take them all."""
    with tempfile.TemporaryDirectory() as folder, live(Path(folder) / "served") as server:
        fill(EmbeddedHub(server.data, cache=Path(folder) / "cache"), Path(folder) / "made")
        with chromium() as browser:
            for name, address, screen in PICTURES:
                scheme: Any = name.rpartition("-")[2]
                with opened(browser, server.url + address, color_scheme=scheme, viewport=screen) as seen:
                    seen.page.wait_for_selector("[role=status]", state="detached", timeout=120_000)
                    seen.page.screenshot(path=OUT / f"{name}.png", full_page=name not in FIRST_SCREENS)


if __name__ == "__main__":
    main()
