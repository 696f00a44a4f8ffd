"""What strangers write into adapters is text on every page, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser

from adapthub.adapters.manifest import DataRecord, Metric
from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.gates import Gate, set_gate
from adapthub.hub.server.pages.visitors import COOKIE
from adapthub.hub.store import Store
from tests.browsing import needs_chromium, opened
from tests.hub.server.live import HubServer, live
from tests.hub.server.pages.filled import write

pytestmark = needs_chromium

ATTACK = "\"'><script>window.hacked=1</script><img src=x onerror=window.hacked=1>{{7*7}}"


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """A hub whose adapters say the worst in every field that may hold text."""
    folder = tmp_path_factory.mktemp("attacked")
    card = (
        f"---\nlicense: {ATTACK!r}\ntags: [{ATTACK!r}, '</title><script>window.hacked=1</script>']\n---\n{ATTACK}\n\n"
        "# <svg onload=window.hacked=1>\n\n[a](javascript:window.hacked=1) <a href='java&#10;script:hacked=1'>b</a>\n\n"
        "![x](https://elsewhere.invalid/pixel.png) <img src='//elsewhere.invalid/p.png'> <iframe src=/></iframe>\n\n"
        "<style>body{display:none}</style><form action=/-/sign-out><button>go</button></form>\n\n"
        "<base href=https://elsewhere.invalid/><meta http-equiv=refresh content='0;url=https://elsewhere.invalid'>\n"
    )
    fields: dict[str, Any] = {
        "base": ATTACK,
        "labels": ("O", ATTACK, "\u202eevil"),
        "recipe": ATTACK,
        "libraries": {ATTACK: ATTACK},
        "data": {name: DataRecord(fingerprint=name, rows=1, source=ATTACK) for name in ("train", ATTACK)},
        "metrics": {ATTACK: {ATTACK: Metric(value=0.5, low=0.4, high=0.6, n=1)}},
        "parents": [ATTACK, f"acme/{'x' * 90}@{'cd' * 32}"],
        "hyperparameters": {ATTACK: ATTACK},
    }
    with live(folder / "served") as server:
        hub = EmbeddedHub(server.data, cache=folder / "cache")
        for seed in range(2):
            weights = {f"base_model.model.<script>window.hacked=1</script>{ATTACK}.weight": picture_tensor()}
            adapter = write(folder / str(seed), seed=seed, card=card, weights=weights, **fields)
            hub.push(adapter, "evil/one", message=ATTACK, alias="prod")
        hub.push(write(folder / "other", seed=5, **fields), "evil/two", message=ATTACK)
        with Store.open(server.data).database.writing() as session:
            set_gate(
                session,
                Gate("evil", "", "prod", signature=True, evaluations=("<b>/<script>alert(1)",)),
            )
        yield server


def picture_tensor() -> Any:
    import numpy

    return numpy.zeros((2, 2), dtype=numpy.float32)


@pytest.mark.slow
def test_what_strangers_write_is_text_and_no_markup(attacked: HubServer, browser: Browser) -> None:
    pages = (
        "/",
        "/evil",
        "/evil/one",
        "/evil/one/tree/prod",
        "/evil/one/blob/v1/README.md",
        "/evil/one/blob/v1/adapthub.json",
        "/evil/one/blob/v1/adapter_model.safetensors",
        "/evil/one/diff/v1..v2",
        "/compare?ref=evil/one&ref=evil/two",
        f"/?q={ATTACK}&label={ATTACK}&base={ATTACK}&task={ATTACK}",
        f"/?metric={ATTACK}",
        "/leaderboard",
        f"/leaderboard?base={ATTACK}&metric={ATTACK}",
        f"/leaderboard?task={ATTACK}",
        "/audit",
        f"/audit?actor={ATTACK}",
        f"/compare?ref={ATTACK}",
        f"/-/sign-in?next={ATTACK}",
        f"/evil/one/tree/{ATTACK.replace('/', '%2F')}",
        f"/evil/one/blob/v1/{ATTACK}",
        f"/{ATTACK.replace('/', '%2F')}",
    )
    handlers = "all => all.flatMap(one => one.getAttributeNames()).filter(name => name.startsWith('on'))"
    with opened(browser, attacked.url) as seen:
        session = {"name": COOKIE, "value": attacked.token("root", "admin"), "url": attacked.url}
        seen.page.context.add_cookies([session])  # type: ignore[list-item]
        seen.page.on("dialog", lambda dialog: seen.complaints.append(dialog.message))
        for address in pages:
            seen.page.goto(attacked.url + address)
            assert seen.page.evaluate("window.hacked") is None, address
            assert seen.page.evaluate("getComputedStyle(document.body).display") == "block", address
            assert [url for url in seen.asked if not url.startswith(f"{attacked.url}/")] == [], address
            scripts = seen.page.locator("script").evaluate_all("all => all.map(one => one.src)")
            assert [re.sub(r".*/", "", one) for one in scripts] == ["theme.js", "page.js"], address
            for tag in ("iframe", "style", "base", "object", "meta[http-equiv]", ".card form", ".card svg"):
                assert seen.page.locator(tag).count() == 0, (address, tag)
            assert seen.page.locator("*").evaluate_all(handlers) == [], address
            assert [one for one in seen.complaints if "the server responded with a status" not in one] == []
            assert "49" not in (seen.page.locator("h1").text_content() or "")


def test_the_worst_texts_are_shown_as_they_are(attacked: HubServer, browser: Browser) -> None:
    with opened(browser, f"{attacked.url}/evil/one") as seen:
        assert ATTACK in seen.page.locator("#versions tbody").first.inner_text()
        assert ATTACK in seen.page.locator("aside").inner_text()
        assert ATTACK[:59] in seen.page.locator("#metrics thead").inner_text()
        assert "\u202e" not in seen.page.content()
        assert seen.page.locator(".card a[href^='java']").count() == 0
