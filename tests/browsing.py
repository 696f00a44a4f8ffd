"""A real browser on a server's pages, which keeps what a page asked for and what it complained about."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
needs_chromium = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}")
_CONTRAST = (Path(__file__).parent / "contrast.js").read_text()


@dataclass
class Seen:
    """`page`, the addresses that it `asked` for, and the `complaints` in its console."""

    page: Page
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def contrasts(self) -> list[dict[str, Any]]:
        """Every text that is seen: `text`, its `colour`, and the `ratio` between it and what is behind it."""
        found: list[dict[str, Any]] = self.page.evaluate(_CONTRAST)
        return found


@contextmanager
def chromium() -> Iterator[Browser]:
    with pytest.MonkeyPatch.context() as patched:
        # Node takes /tmp, be it there or not, where Python looks for a folder that is.
        patched.setenv("TMPDIR", tempfile.gettempdir())
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
            try:
                yield browser
            finally:
                browser.close()


@contextmanager
def opened(browser: Browser, address: str, **context: Any) -> Iterator[Seen]:
    """A page in a context of its own."""
    with browser.new_context(**context) as own:
        seen = Seen(own.new_page())
        seen.page.set_default_timeout(15_000)
        seen.page.on("request", lambda request: seen.asked.append(request.url))
        seen.page.on("console", lambda message: seen.complaints.append(message.text))
        seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        seen.page.goto(address)
        yield seen


def check_schemes(
    opened: Callable[..., AbstractContextManager[Seen]], again: Callable[[Page], object]
) -> None:
    """The scheme of a page is the system's until it is chosen, and is remembered by the page that `again` opens."""
    paper = "getComputedStyle(document.body).backgroundColor"
    papers = {}
    for scheme in ("light", "dark"):
        with opened(color_scheme=scheme) as seen:
            papers[scheme] = seen.page.evaluate(paper)
            button = seen.page.get_by_role("button", name="Colours")
            for chosen in ("light", "dark"):
                button.click()
                assert button.text_content() == chosen.capitalize()
                papers.setdefault(f"{chosen} on {scheme}", seen.page.evaluate(paper))
            again(seen.page)
            assert seen.page.evaluate(paper) == papers[f"dark on {scheme}"]
    assert papers["light"] != papers["dark"]
    assert papers["light"] == papers["light on light"] == papers["light on dark"]
    assert papers["dark"] == papers["dark on light"] == papers["dark on dark"]
