"""The web page in a real browser: numbers that move, answers as they come, by keyboard alone, in the dark and on a phone."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
from playwright.sync_api import Browser, Page, expect

from adapthub.hub.registry import Registry
from adapthub.runtime.server.lifecycle import Running
from tests.browsing import Seen, check_schemes, chromium, needs_chromium
from tests.runtime.server.browsing import browsing
from tests.runtime.server.keyed import KeyedGate
from tests.runtime.server.live import live, settings_for

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def seen(browser: Browser, server: Running) -> Iterator[Seen]:
    with browsing(browser, server.address) as seen:
        yield seen
        assert seen.complaints == []


@pytest.fixture
def page(seen: Seen) -> Page:
    return seen.page


def ask(page: Page, text: str, model: str, other: str = "", tokens: int = 40) -> None:
    page.get_by_role("link", name="Playground").click()
    page.get_by_role("combobox", name="Model").fill(model)
    page.get_by_label("Compare with").fill(other)
    if page.locator("#max-tokens").is_visible():
        page.locator("#max-tokens").fill(str(tokens))
    page.get_by_label("Text", exact=True).fill(text)
    page.get_by_role("button", name="Run").click()


def choose(page: Page, task: str) -> None:
    page.get_by_role("link", name="Playground").click()
    page.get_by_role("radio", name=task).check()


def test_it_loads_everything_from_its_own_server(seen: Seen, server: Running) -> None:
    seen.page.get_by_role("link", name="Playground").click()
    expect(seen.page.locator("#models option")).to_have_count(4)
    assert {url for url in seen.asked if not url.startswith(server.address)} == set()
    assert f"{server.address}/pages/charts.js" in seen.asked
    assert seen.page.locator("#base-name").text_content() == server.serving.catalog.base_name
    assert seen.page.locator("#state").text_content() == "local"


def test_numbers_move_while_requests_run(page: Page, client: openai.OpenAI) -> None:
    """A row for the adapter, tokens in the chart, and latencies come up by themselves."""
    done = threading.Event()

    def traffic() -> None:
        while not done.is_set():
            client.completions.create(model="acme/tone", prompt="alice visited", max_tokens=40)

    thread = threading.Thread(target=traffic)
    thread.start()
    try:
        now = page.locator("#throughput-table tr", has_text="acme/tone@v1").locator("td").first
        now.wait_for()
        expect(page.locator("#throughput svg")).to_have_attribute("aria-label", re.compile("second: [1-9]"))
        assert float((now.text_content() or "").replace(",", "")) > 0
        first = page.locator("#first-token svg").get_attribute("aria-label")
        assert "acme/tone@v1" in (first or "")
        requests = page.locator("#traffic-table tr", has_text="acme/tone@v1").locator("td").nth(1)
        before = requests.text_content()
        expect(requests).not_to_have_text(before or "")
    finally:
        done.set()
        thread.join()
    assert (
        page.locator("#adapters-table tr", has_text="acme/tone@v1").locator("td").first.text_content()
        == "attached"
    )


def test_an_answer_appears_as_it_comes_and_can_be_stopped(page: Page, server: Running) -> None:
    ask(page, "alice visited london", "acme/tone", tokens=450)
    card = page.get_by_role("article", name="Answer of acme/tone")
    said = card.locator(".turn.assistant .text")
    expect(said).not_to_be_empty()
    shown = said.text_content() or ""
    assert card.locator(".body").get_attribute("aria-live") == "polite"
    expect(said).not_to_have_text(shown)
    stop = page.get_by_role("button", name="Stop")
    if stop.is_enabled():
        stop.click()
    expect(stop).to_be_disabled()
    while server.serving.in_flight:
        pass
    assert (said.text_content() or "").startswith(shown)
    assert page.locator(".body[aria-busy]").count() == 0


def test_a_text_is_what_the_api_answers_and_a_conversation_goes_on(page: Page, client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "alice visited london"}]
    for text in ("alice visited london", "in paris"):
        ask(page, text, "acme/sql@v2", tokens=8)
        expect(page.get_by_label("Text", exact=True)).to_have_value("")
        if text == "in paris":
            messages.append({"role": "user", "content": text})
        answer = client.chat.completions.create(
            model="acme/sql@v2", messages=messages, max_tokens=8, temperature=0
        )
        content = answer.choices[0].message.content
        assert page.locator(".turn.assistant .text").last.text_content() == content
        messages.append({"role": "assistant", "content": content})
    assert page.locator(".turn").count() == 4


def test_two_models_answer_side_by_side(page: Page, client: openai.OpenAI) -> None:
    choose(page, "Continue")
    ask(page, "alice visited", "acme/sql@v1", "acme/tone", tokens=12)
    expect(page.locator(".rating")).to_have_count(2)
    for model in ("acme/sql@v1", "acme/tone"):
        card = page.get_by_role("article", name=f"Answer of {model}")
        text = client.completions.create(model=model, prompt="alice visited", max_tokens=12, temperature=0)
        assert card.locator(".text").text_content() == f"alice visited{text.choices[0].text}"
        card.get_by_role("button", name="Good").click()
        expect(card.locator(".rating")).to_contain_text("noted")
    left, right = (page.get_by_role("article").nth(side).bounding_box() for side in (0, 1))
    assert left is not None
    assert right is not None
    assert left["x"] + left["width"] < right["x"]


def test_entities_are_highlighted_where_they_are(browser: Browser, encoder: Running) -> None:
    text = "\U0001f642 ada met <b>bob</b> in london, and bob was born"
    (prediction,) = encoder.serving.runtime.predict([text], "acme/ner")
    assert len(prediction.entities) > 1
    with browsing(browser, encoder.address) as seen:
        choose(seen.page, "Entities")
        ask(seen.page, text, "acme/ner@prod")
        marks = seen.page.locator("mark")
        expect(marks).to_have_text([f"{one.text}{one.label}" for one in prediction.entities])
        seen.page.locator("mark .label").evaluate_all("labels => labels.forEach(label => label.remove())")
        assert seen.page.locator(".entities").text_content() == text
        seen.page.get_by_role("button", name="Good").click()
        expect(seen.page.locator(".rating")).to_contain_text("noted")
        assert seen.complaints == []


def test_kinds_of_entities_have_colours_of_their_own(page: Page) -> None:
    found = [
        {"entity_group": label, "start": at, "end": at + 1, "score": 0.9} for at, label in enumerate("XYX")
    ]
    page.route("**/models/acme/ner", lambda route: route.fulfill(json=found))
    choose(page, "Entities")
    ask(page, "abc", "acme/ner")
    marks = page.locator("mark")
    expect(marks).to_have_count(3)
    x, y, z = (mark.evaluate("mark => getComputedStyle(mark).borderBottomColor") for mark in marks.all())
    assert x == z != y


def test_classes_are_bars_as_long_as_their_scores(browser: Browser, encoder: Running) -> None:
    (prediction,) = encoder.serving.runtime.predict(["a fine film"], "acme/mood")
    with browsing(browser, encoder.address) as seen:
        choose(seen.page, "Classify")
        ask(seen.page, "a fine film", "acme/mood")
        expect(seen.page.locator(".scores tr")).to_have_count(3)
        assert seen.page.locator(".scores th").first.text_content() == prediction.label
        widths = [
            bar.evaluate("bar => bar.getBoundingClientRect().width")
            for bar in seen.page.locator(".bar-of").all()
        ]
        scores = [float(one) for one in seen.page.locator(".scores td:last-child").all_text_contents()]
        assert scores == sorted(scores, reverse=True)
        assert [one / widths[0] for one in widths] == pytest.approx(
            [one / scores[0] for one in scores], rel=0.02
        )
        assert seen.complaints == []


def test_what_goes_wrong_is_said_and_is_no_markup(seen: Seen) -> None:
    ask(seen.page, "alice", "acme/<img src=x onerror=alert(1)>")
    failure = seen.page.locator(".failure")
    failure.wait_for()
    assert "<img src=x" in (seen.page.get_by_role("article").text_content() or "")
    assert seen.page.locator("article img").count() == 0
    assert seen.page.locator("#text").input_value() == "alice"  # to be sent again
    assert [line for line in seen.complaints if "404" not in line and "400" not in line] == []
    seen.complaints.clear()


def test_everything_can_be_done_with_the_keyboard(page: Page) -> None:
    def tab_to(selector: str) -> None:
        for _ in range(30):
            page.keyboard.press("Tab")
            outlined = page.evaluate(
                "(e => [e, e.nextElementSibling].some(one => one && getComputedStyle(one).outlineStyle !== 'none'))"
                "(document.activeElement)"
            )
            assert outlined, page.evaluate("document.activeElement.outerHTML")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"{selector} was not reached")

    page.locator("body").press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    tab_to("[data-view=playground]")
    page.keyboard.press("Enter")
    page.locator("#view-playground").wait_for()
    tab_to("#theme-button")
    tab_to("input[name=task]")
    page.keyboard.press("ArrowRight")
    tab_to("#model-a")
    page.keyboard.press("Control+a")
    page.keyboard.type("acme/tone")
    page.keyboard.press("Escape")  # the list of suggestions
    tab_to("#text")
    page.keyboard.type("alice visited")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".rating")).to_have_count(1)
    tab_to("#clear")
    page.keyboard.press("Enter")
    assert page.locator("article").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["live", "playground"])
def test_colours_have_contrast_in_both_schemes(
    browser: Browser, server: Running, client: openai.OpenAI, scheme: str, view: str
) -> None:
    """WCAG's AA: 4.5 for text, on whatever is behind it."""
    client.completions.create(model="acme/tone", prompt="alice visited", max_tokens=4)
    with browsing(browser, f"{server.address}/#{view}", color_scheme=scheme) as seen:
        page = seen.page
        if view == "playground":
            page.route(
                "**/models/a*",
                lambda route: route.fulfill(json=[{"entity": "X", "start": 0, "end": 1, "score": 1}]),
            )
            choose(page, "Entities")
            ask(page, "alice", "a")
            page.locator("mark").wait_for()
            ask(page, "alice", "zeta/none<")
        found = seen.contrasts()
    assert len(found) > 15
    assert [one for one in found if one["ratio"] < 4.5] == []


def test_the_scheme_is_the_systems_until_it_is_chosen(browser: Browser, server: Running) -> None:
    check_schemes(partial(browsing, browser, server.address), lambda page: page.reload())


def test_on_a_phone_nothing_is_wider_than_the_screen(
    browser: Browser, server: Running, client: openai.OpenAI
) -> None:
    client.completions.create(model="acme/tone", prompt="alice visited", max_tokens=4)
    with browsing(browser, server.address, viewport={"width": 360, "height": 740}) as seen:
        width = "document.documentElement.scrollWidth"
        assert seen.page.evaluate(width) == 360
        ask(seen.page, "alice visited", "acme/sql", "acme/tone", tokens=30)
        expect(seen.page.locator(".rating")).to_have_count(2)
        assert seen.page.evaluate(width) == 360
        assert seen.page.get_by_role("article").first.evaluate("card => card.scrollWidth <= card.clientWidth")


def test_reduced_motion_is_honoured(browser: Browser, server: Running) -> None:
    duration = "getComputedStyle(document.querySelector('nav a')).transitionDuration.split(',')[0]"
    with browsing(browser, server.address, reduced_motion="no-preference") as seen:
        assert seen.page.evaluate(duration) == "0.12s"
    with browsing(browser, server.address, reduced_motion="reduce") as seen:
        assert seen.page.evaluate(duration) == "0s"


def test_a_key_is_asked_for_and_kept_in_the_tab(
    browser: Browser, served_base: Path, served_hub: Registry
) -> None:
    with (
        live(settings_for(served_base), served_hub, KeyedGate()) as running,
        browsing(browser, running.address) as seen,
    ):
        page = seen.page
        assert "asks for a key" in (page.get_by_role("alert").text_content() or "")
        page.get_by_role("button", name="Key").click()
        page.get_by_role("textbox", name="Key").fill("acme-key")
        page.keyboard.press("Enter")
        expect(page.locator("#state")).to_have_text("acme")
        assert page.get_by_role("alert").count() == 0
        assert page.evaluate("Object.values(sessionStorage)") == ["acme-key"]
        assert "acme-key" not in page.evaluate("JSON.stringify(localStorage) + document.cookie")
        expect(page.locator("#models option")).to_have_count(3)
        models = page.locator("#models option").evaluate_all("all => all.map(one => one.value)")
        assert models[1:] == ["acme/sql", "acme/tone"]
        page.get_by_role("button", name="Key").click()
        page.get_by_role("button", name="Forget").click()
        expect(page.locator("#state")).to_have_text("no key")
        assert page.evaluate("Object.values(sessionStorage)") == []
