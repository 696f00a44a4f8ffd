"""The pictures of the web page in docs/screenshots: a real server over SmolLM2-135M with tenants' traffic, in Chromium.

    adapt demo                    # trains demo/ner and demo/sentiment, which the pictures of tasks show
    python -m docs.screenshots

The other adapters are random and weak: what is shown is the page. Fetches the model if it is not there.
"""

from __future__ import annotations

import random
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import torch
from peft import LoraConfig, get_peft_model
from playwright.sync_api import Page, expect
from transformers import AutoModelForCausalLM

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.base import resolve_base
from adapthub.hub import open_hub
from adapthub.hub.registry import Registry
from adapthub.runtime.generation import Limits
from adapthub.runtime.server.lifecycle import Running, ServerSettings
from adapthub.runtime.tenants.caller import Caller
from tests.browsing import chromium
from tests.runtime.server.browsing import browsing
from tests.runtime.server.keyed import KeyedGate
from tests.runtime.server.live import live

OUT = Path(__file__).parent / "screenshots"
BASE = "package:smollm2-135m"
ADAPTERS = ("acme/sql", "acme/sql", "acme/tone", "zeta/support", "zeta/titles", "beta/notes")
CALLERS = {
    "operations": Caller("operations", ("*",), admin=True),
    "acme": Caller("acme", ("acme/*",)),
    "zeta": Caller("zeta", ("zeta/*",)),
    "beta": Caller("beta", ("beta/*",)),
}
# Who asks what, for how many tokens, after pauses of how many seconds on average.
TRAFFIC = (
    ("acme", "acme/sql@v2", 48, 0.3),
    ("acme", "acme/tone", 24, 1.0),
    ("zeta", "zeta/support", 64, 1.5),
    ("zeta", "zeta/titles", 12, 0.7),
    ("beta", "beta/notes", 32, 3.0),
    ("operations", BASE, 16, 4.0),
)
SCREEN: Any = {"width": 1120, "height": 800}
ENTITIES = (
    "Ada Lovelace was born in London and wrote to Charles Babbage; Reuters reports that Germany beat Brazil."
)
OPINION = "The story is thin, but the performances carry it."
PROMPT = "The sun rose over the quiet village, and"


def main() -> None:
    """Take them all."""
    OUT.mkdir(exist_ok=True)
    generating()
    tasks()


def tasks() -> None:
    """Entities and classes, by the adapters of the demo."""
    settings = ServerSettings("package:minilm", quantize="nf4", port=0, adapters=["demo/*"])
    with live(settings, open_hub()) as running, chromium() as browser:
        for name, text, task, models in (
            ("entities-light", ENTITIES, "Entities", ("demo/ner",)),
            ("classes-dark", OPINION, "Classify", ("demo/sentiment@v1", "demo/sentiment@v2")),
        ):
            scheme = name.rpartition("-")[2]
            with browsing(browser, running.address, color_scheme=scheme, viewport=SCREEN) as seen:
                _fill(seen.page, task, text, *models)
                expect(seen.page.locator(".rating")).to_have_count(len(models), timeout=60_000)
                _take(seen.page, name)


def generating() -> None:
    """What runs, and two answers side by side."""
    with tempfile.TemporaryDirectory() as folder:
        hub = _hub(Path(folder))
        limits = Limits(kv_tokens=16384, max_rows=16)
        settings = ServerSettings(BASE, port=0, slots=4, limits=limits)
        with live(settings, hub, KeyedGate(CALLERS)) as running, _traffic(running), chromium() as browser:
            threading.Event().wait(55)  # the charts show a minute
            for name, options in {
                "live-light": {"color_scheme": "light"},
                "live-dark": {"color_scheme": "dark"},
            }.items():
                with _opened(browser, running, **options) as page:
                    expect(page.locator("#traffic-table tbody tr")).to_have_count(len(TRAFFIC))
                    _take(page, name)
            with _opened(browser, running, viewport={"width": 360, "height": 740}) as page:
                _take(page, "live-phone", full_page=False)
            for name in ("light", "dark"):
                with _opened(browser, running, color_scheme=name) as page:
                    _ask(page)
                    _take(page, f"playground-{name}")


def _hub(folder: Path) -> Registry:
    hub = open_hub(folder / "hub")
    path = resolve_base(BASE).path
    for seed, name in enumerate(ADAPTERS):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(path)
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=8,
            lora_alpha=1.5,
            target_modules=["q_proj", "v_proj"],
            init_lora_weights=False,
        )
        get_peft_model(model, config).save_pretrained(str(folder / str(seed)))
        hub.push(Artifact.read(folder / str(seed)), name)
    return hub


@contextmanager
def _traffic(running: Running) -> Iterator[None]:
    """Within: tenants ask, each one request after another."""
    done = threading.Event()

    def user(key: str, model: str, tokens: int, pause: float) -> None:
        rng = random.Random(model)
        with openai.OpenAI(base_url=f"{running.address}/v1", api_key=key) as client:
            while not done.wait(rng.expovariate(1 / pause)):
                count = rng.randint(tokens // 2, tokens)
                client.completions.create(model=model, prompt=PROMPT, max_tokens=count)

    threads = [threading.Thread(target=user, args=arguments) for arguments in TRAFFIC]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()


@contextmanager
def _opened(browser: Any, running: Running, **options: Any) -> Iterator[Page]:
    with browsing(browser, running.address, **({"viewport": SCREEN} | options)) as seen:
        seen.page.get_by_role("button", name="Key").click()
        seen.page.get_by_role("textbox", name="Key").fill("operations")
        seen.page.keyboard.press("Enter")
        expect(seen.page.locator("#state")).to_have_text("operations")
        yield seen.page


def _ask(page: Page) -> None:
    page.locator("#max-tokens").evaluate("field => { field.value = 48; }")
    _fill(page, "Continue", PROMPT, "acme/sql@v1", "0.5*acme/sql@v2 + 0.5*acme/tone")
    expect(page.locator(".rating")).to_have_count(2, timeout=60_000)


def _fill(page: Page, task: str, text: str, model: str, other: str = "") -> None:
    page.get_by_role("link", name="Playground").click()
    page.get_by_role("radio", name=task).check()
    page.get_by_role("combobox", name="Model").fill(model)
    page.get_by_label("Compare with").fill(other)
    page.get_by_label("Text", exact=True).fill(text)
    page.keyboard.press("Control+Enter")


def _take(page: Page, name: str, *, full_page: bool = True) -> None:
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")
    page.screenshot(path=OUT / f"{name}.png", full_page=full_page)


if __name__ == "__main__":
    main()
