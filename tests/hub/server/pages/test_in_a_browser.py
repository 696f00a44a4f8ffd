"""The hub's pages in a real browser: by keyboard, in the dark, on a phone, and with everything that strangers may write."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, expect

from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.server.pages.visitors import COOKIE
from tests.browsing import Seen, check_schemes, needs_chromium, opened
from tests.hub.server.live import HubServer, live
from tests.hub.server.pages.filled import REVIEWERS, picture, write

pytestmark = needs_chromium

BOARD = "/leaderboard?task=text-classification&metric=accuracy"
PAGES = (
    "/",
    "/?q=ner&task=token-classification&metric=f1>=0.8",
    "/acme",
    "/acme/ner",
    "/acme/ner/tree/prod",
    "/acme/ner/tree/v1",
    "/leaderboard",
    BOARD,
    "/acme/ner/blob/v4/README.md",
    "/acme/ner/blob/v4/loss.png",
    "/acme/ner/blob/v4/adapter_model.safetensors",
    "/acme/ner/diff/v3..v4",
    "/compare?ref=acme/ner&ref=acme/ner-news&ref=acme/ner-legal",
    "/-/sign-in",
)
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


@pytest.fixture(scope="module")
def compared(filled: HubServer, browser: Browser) -> HubServer:
    """With the difference of two versions computed: the first one loads torch."""
    with opened(browser, f"{filled.url}/acme/ner/diff/v3..v4") as seen:
        expect(seen.page.get_by_role("heading", name="Modules")).to_be_visible(timeout=120_000)
    return filled


def walk(page: Page, wanted: str, most: int = 60) -> None:
    """Press Tab until what the selector matches has the focus; whatever has it on the way can be seen to."""
    for _ in range(most):
        page.keyboard.press("Tab")
        outlined = page.evaluate(
            "(one => one.closest('svg') || getComputedStyle(one).outlineStyle !== 'none')(document.activeElement)"
        )
        assert outlined, page.evaluate("document.activeElement.outerHTML")
        if page.evaluate("wanted => document.activeElement.matches(wanted)", wanted):
            return
    raise AssertionError(f"{wanted} was not reached")


def check_whole(seen: Seen, url: str, address: str) -> None:
    """Nothing comes from elsewhere, nothing complains, WCAG's AA contrast in both schemes, no wider than a phone."""
    seen.page.goto(url + address)
    assert [asked for asked in seen.asked if not asked.startswith(f"{url}/")] == [], address
    assert seen.complaints == [], address
    assert seen.page.locator("h1").count() == 1, address
    assert "AdaptHub" in seen.page.title()
    seen.page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")
    for scheme in SCHEMES:
        seen.page.emulate_media(color_scheme=scheme)
        found = seen.contrasts()
        assert len(found) > 8, address
        assert [one for one in found if one["ratio"] < 4.5] == [], (address, scheme)
    seen.page.set_viewport_size({"width": 360, "height": 740})
    assert seen.page.evaluate("document.documentElement.scrollWidth") == 360, address
    seen.page.set_viewport_size({"width": 1280, "height": 720})


def test_every_page_is_whole_readable_and_fits_a_phone(compared: HubServer, browser: Browser) -> None:
    with opened(browser, compared.url, reduced_motion="reduce") as seen:
        for address in PAGES:
            check_whole(seen, compared.url, address)


def test_browsing_leads_to_an_adapter(filled: HubServer, browser: Browser) -> None:
    with opened(browser, filled.url) as seen:
        page = seen.page
        names = page.locator("tbody th")
        assert names.first.text_content() == "beta/notes"
        page.get_by_role("searchbox", name="Search").fill("english news")
        page.keyboard.press("Enter")
        expect(names).to_have_text(["acme/ner"])
        names.get_by_role("link").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("ner")
        expect(page.locator(".card img")).to_have_js_property("naturalWidth", 320)
        page.get_by_role("link", name="how it was measured").click()
        assert page.evaluate("location.hash") == "#card-results"
        assert page.locator("#card-results").text_content() == "Results"
        page.get_by_role("link", name="configuration").click()
        expect(page.locator("pre")).to_contain_text('"lora_alpha": 16')


def test_filters_and_sorting(filled: HubServer, browser: Browser) -> None:
    with opened(browser, filled.url) as seen:
        page = seen.page
        page.get_by_text("Filters").click()
        page.get_by_label("Task").select_option("token-classification")
        page.get_by_role("textbox", name="Metric").fill("loss<0.5")
        page.get_by_role("button", name="Search").click()
        expect(page.locator("tbody th")).to_have_text(["acme/ner", "acme/ner-news", "acme/ner-legal"])
        expect(page.get_by_role("textbox", name="Metric")).to_have_value("loss<0.5")
        page.get_by_role("textbox", name="Metric").fill("loss about 3")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("'loss about 3' is not a condition on a metric")


def test_an_adapters_page_says_what_the_hub_knows(filled: HubServer, browser: Browser) -> None:
    with opened(browser, f"{filled.url}/acme/ner") as seen:
        page = seen.page
        plots = page.locator("#metrics figure")
        expect(plots).to_have_count(4)
        assert plots.first.locator("circle title").all_text_contents()[-1] == "v4: 0.912, 95 % 0.9 to 0.923"
        assert (
            page.locator("#metrics tbody tr").first.all_inner_texts()[0].startswith("v4\t0.912 0.9 to 0.923")
        )
        versions = page.locator("#versions > .scroll tbody tr")
        expect(versions).to_have_count(4)
        expect(versions.nth(1)).to_contain_text("prod")
        page.get_by_text("Moves of aliases", exact=True).click()
        expect(page.locator("#versions details tbody tr").first).to_contain_text("prod")
        boxes = page.locator("#lineage text title").all_text_contents()
        assert boxes == ["acme/ner@v4", "acme/ner@v3", "acme/ner@v2", "acme/ner@v1", "acme/ner-news@v1",
                         "acme/ner-legal@v1", "other/gone"]  # fmt: skip
        expect(page.locator("#together tbody tr")).to_have_count(2)
        page.locator("#lineage a").nth(3).click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("v1")
        page.locator("#files").get_by_role("link", name="adapter_model.safetensors", exact=True).click()
        expect(page.locator("tbody").first).to_contain_text("lora_A.weight")


def test_what_holds_of_an_adapter_is_said(filled: HubServer, browser: Browser) -> None:
    with opened(browser, f"{filled.url}/acme/ner") as seen:
        page = seen.page
        aside = page.locator("aside")
        expect(aside).to_contain_text("fits: every tensor lands on a module of its base")
        expect(aside).to_contain_text("signed by releases, a key of acme")
        gates = page.locator("#gates tbody tr")
        expect(gates).to_have_count(2)
        expect(gates.nth(0)).to_contain_text("it needs the approval of 1 other")
        expect(gates.nth(1)).to_contain_text("may move")
        expect(page.locator("#boards tbody tr").first).to_contain_text("1 of 3")
        page.locator("#lineage a").nth(3).click()
        expect(page.locator("#lineage .here + text title")).to_have_text("acme/ner@v1")
        boxes = page.locator("#lineage text title").all_text_contents()
        assert boxes.index("acme/ner@v4") == 0
        assert boxes.index("acme/ner@v1") < boxes.index("acme/ner-news@v1")
        expect(aside).to_contain_text("not signed")


def test_how_an_adapter_ports_is_said_where_it_was_certified(filled: HubServer, browser: Browser) -> None:
    with opened(browser, f"{filled.url}/acme/ner") as seen:
        page = seen.page
        page.get_by_role("navigation", name="On this page").get_by_role("link", name="Portability").click()
        assert page.evaluate("location.hash") == "#portability"
        section = page.get_by_role("region", name="Portability").first
        expect(section).to_contain_text("against its base in float32, on 3,453 rows of news-test.conll")
        rows = section.locator("tbody tr")
        expect(rows).to_have_count(2)
        assert rows.nth(0).inner_text().split("\t") == [
            "nf4", "worse", "f1", "0.9045", "-0.0075 -0.0115 to -0.0045", "8.00e-02", "1.23 %"
        ]  # fmt: skip
        assert rows.nth(1).inner_text().split("\t")[:2] == ["bf16", "holds"]
        assert rows.nth(1).inner_text().endswith("–")
        page.goto(f"{filled.url}/acme/ner/tree/v3")
        expect(page.get_by_role("heading", name="Portability")).to_have_count(0)


def test_a_leaderboard_is_found_and_read(filled: HubServer, browser: Browser) -> None:
    with opened(browser, filled.url) as seen:
        page = seen.page
        walk(page, "nav a[href='/leaderboard']")
        page.keyboard.press("Enter")
        expect(page.locator("tbody tr")).to_have_count(2)
        page.get_by_role("link", name="By accuracy: org/bert-base").click()
        ranks = page.locator("tbody th")
        expect(ranks).to_have_text(["1", "1", "1", "4", "5"])
        centres = page.locator("tbody circle").evaluate_all(
            "all => all.map(one => one.getBoundingClientRect().x)"
        )
        assert centres == sorted(centres, reverse=True)
        for row in page.locator("tbody tr").all():
            across, mark = row.bounding_box(), row.locator("circle").bounding_box()
            assert across is not None
            assert mark is not None
            assert across["y"] < mark["y"] < mark["y"] + mark["height"] < across["y"] + across["height"]
        page.get_by_role("navigation", name="Metrics").get_by_role("link", name="loss").click()
        expect(page.locator("tbody .words")).to_have_text([f"{name}@v1" for name in [*REVIEWERS][::-1]])
        expect(page.locator(".figures")).to_contain_text("less is better")


def test_snippets_are_copied(filled: HubServer, browser: Browser) -> None:
    with opened(
        browser, f"{filled.url}/acme/tone", permissions=["clipboard-read", "clipboard-write"]
    ) as seen:
        seen.page.locator("summary", has_text="vLLM").click()
        seen.page.get_by_role("button", name="Copy vLLM").click()
        expect(seen.page.get_by_role("button", name="Copy vLLM")).to_have_text("Copied")
        copied = seen.page.evaluate("navigator.clipboard.readText()")
        assert f"HF_ENDPOINT={filled.url} hf download acme/tone --revision v1" in copied
        assert "--lora-modules tone=./tone" in copied


def test_everything_can_be_done_with_the_keyboard(compared: HubServer, browser: Browser) -> None:
    with opened(browser, compared.url) as seen:
        page = seen.page
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("/")
        page.keyboard.type("roberta")
        assert page.evaluate("document.activeElement.value") == "roberta"
        page.keyboard.press("Enter")
        expect(page.locator("tbody tr")).to_have_count(3)
        for reference in ("acme/ner", "acme/ner-news"):
            walk(page, f"[name=ref][value='{reference}']")
            page.keyboard.press("Space")
        walk(page, "form.block button")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Together")).to_be_visible()
        walk(page, "thead a")
        page.keyboard.press("Enter")
        expect(page.locator("#use")).to_be_visible()
        walk(page, "a[href='#use']")
        page.keyboard.press("Enter")
        walk(page, ".snippet:nth-of-type(2) summary")
        page.keyboard.press("Enter")
        expect(page.locator(".snippet", has_text="snapshot_download")).to_have_attribute("open", "")
        walk(page, "#versions a[href*='/diff/']")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="What changed")).to_be_visible()
        walk(page, "#theme")
        page.keyboard.press("Enter")
        assert page.locator("html").get_attribute("data-theme") == "light"


def test_the_scheme_is_the_systems_until_it_is_chosen(filled: HubServer, browser: Browser) -> None:
    check_schemes(partial(opened, browser, filled.url), lambda page: page.goto(f"{filled.url}/compare"))


def test_it_works_without_script(compared: HubServer, browser: Browser) -> None:
    with opened(browser, compared.url, java_script_enabled=False) as seen:
        page = seen.page
        page.get_by_role("searchbox", name="Search").fill("acme")
        page.keyboard.press("Enter")
        page.get_by_role("link", name="acme/ner", exact=True).click()
        page.get_by_role("link", name="Changes from v3 to v4").click()
        assert page.get_by_role("heading", name="What changed").is_visible()
        assert not page.locator("#theme").is_visible()


def test_the_audit_log_with_keyboard_and_without_script(browser: Browser, tmp_path: Path) -> None:
    with live(tmp_path / "served") as server:
        hub = EmbeddedHub(server.data, cache=tmp_path / "cache")
        hub.push(write(tmp_path / "made", seed=1), "ada/secret", alias="prod")
        token = server.token("root", "admin")
        for script in (True, False):
            with opened(browser, f"{server.url}/audit", java_script_enabled=script) as seen:
                page = seen.page
                expect(page.get_by_role("heading", name="Sign in first")).to_be_visible()
                assert "ada/secret" not in page.content()
                page.get_by_role("link", name="sign in with a token").click()
                page.get_by_label("Token").focus()
                page.keyboard.type(token)
                page.keyboard.press("Enter")
                expect(page.get_by_role("heading", name="Audit log")).to_be_visible()
                rows = page.locator("tbody tr")
                every = rows.count()
                page.get_by_label("Action").focus()
                page.keyboard.type("alias.moved")
                page.keyboard.press("Enter")
                expect(rows).to_have_count(1)
                expect(rows).to_contain_text("ada/secret")
                page.get_by_role("link", name="All entries").press("Enter")
                expect(rows).to_have_count(every)
                page.get_by_role("button", name="Verify the chain").press("Enter")
                expect(page.get_by_role("status")).to_contain_text(f"{every} entries is as it was written")
                assert page.get_by_role("link", name="Audit").get_attribute("aria-current") == "page"
        with opened(browser, server.url, reduced_motion="reduce") as seen:
            seen.page.context.add_cookies([{"name": COOKIE, "value": token, "url": server.url}])
            for address in ("/audit", "/audit?verify=1", "/audit?actor=nobody"):
                check_whole(seen, server.url, address)
            walk(seen.page, "button[name=verify]")


def test_a_token_opens_what_is_private(browser: Browser, tmp_path: Path) -> None:
    with live(tmp_path / "served") as server:
        EmbeddedHub(server.data, cache=tmp_path / "cache").push(
            write(tmp_path / "made", seed=1, card="![a](a.png)", images={"a.png": picture()}), "ada/secret"
        )
        token = server.token()
        server.client().update_repo_settings("ada/secret", private=True)
        with opened(browser, f"{server.url}/ada/secret") as seen:
            page = seen.page
            expect(page.get_by_role("heading", name="Not here")).to_be_visible()
            page.get_by_role("link", name="sign in with a token").click()
            expect(page.get_by_label("Token")).to_be_focused()
            page.keyboard.type("ah_wrong")
            page.keyboard.press("Enter")
            expect(page.get_by_role("alert")).to_contain_text("none of this hub's")
            page.get_by_label("Token").fill(token)
            page.keyboard.press("Enter")
            expect(page.get_by_text("private", exact=True)).to_be_visible()
            expect(page.locator(".card img")).to_have_js_property("naturalWidth", 320)
            expect(page.locator("#use")).to_contain_text("HF_TOKEN=ah_...")
            assert page.evaluate("document.cookie + JSON.stringify(localStorage)") == "{}"
            assert page.context.request.get(f"{server.url}/api/models/ada/secret").status == 404
            seen.page.get_by_role("button", name="Sign out").click()
            expect(page.get_by_text("has no adapter yet")).to_be_visible()
            assert page.goto(f"{server.url}/ada/secret").status == 404  # type: ignore[union-attr]


def test_the_browser_is_told_to_load_nothing_else(filled: HubServer, browser: Browser) -> None:
    """Were a script to get in, it would not run: the policy holds by itself."""
    with opened(browser, filled.url) as seen:
        seen.page.evaluate(
            "() => { const one = document.createElement('script'); one.textContent = 'window.hacked = 1';"
            " document.body.append(one); }"
        )
        assert seen.page.evaluate("window.hacked") is None
        assert any("Content Security Policy" in one for one in seen.complaints)
