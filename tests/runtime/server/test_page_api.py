"""The page's files and numbers over HTTP: what may be read by whom, and what browsers are told about it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from adapthub.hub.registry import Registry
from adapthub.runtime.server.lifecycle import Running
from tests.runtime.server.keyed import KeyedGate
from tests.runtime.server.live import live, settings_for
from tests.runtime.server.scraping import get


@pytest.fixture(scope="module")
def shared(served_base: Any, served_hub: Registry) -> Iterator[Running]:
    """With tenants, each of which has used an adapter."""
    with live(settings_for(served_base), served_hub, KeyedGate()) as running:
        for key, model in (("acme-key", "acme/sql@v2"), ("zeta-key", "zeta/own"), ("root-key", "acme/tone")):
            with openai.OpenAI(base_url=f"{running.address}/v1", api_key=key, max_retries=0) as client:
                client.completions.create(model=model, prompt="a b", max_tokens=3)
        yield running


def live_of(running: Running, key: str) -> dict[str, Any]:
    status, _, text = get(running, "/api/live", key)
    assert status == 200, text
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.mark.parametrize(
    "path", ["/", "/pages/app.js", "/pages/style.css", "/pages/icon.svg", "/pages/charts.js"]
)
def test_files_need_no_key_and_may_load_nothing_from_elsewhere(shared: Running, path: str) -> None:
    status, headers, text = get(shared, path)
    assert (status, bool(text)) == (200, True)
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src", "img-src")} == {"'self'"}
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text


@pytest.mark.parametrize(
    "path", ["/pages/", "/pages/app.py", "/pages/..%2fapp.py", "/pages/../app.py", "/pages/%00"]
)
def test_nothing_else_is_a_file(shared: Running, path: str) -> None:
    assert get(shared, path)[0] == 404


def test_numbers_need_a_key(shared: Running) -> None:
    assert get(shared, "/api/live")[0] == 401


def test_a_tenant_sees_its_own_traffic_and_adapters(shared: Running) -> None:
    seen = live_of(shared, "acme-key")
    assert (seen["tenant"], seen["admin"], seen["open"], seen["load"]) == ("acme", False, False, None)
    assert [(one["tenant"], one["adapter"], one["requests"]) for one in seen["traffic"]] == [
        ("acme", "acme/sql@v2", 1)
    ]
    assert [one["name"] for one in seen["adapters"]] == ["acme/sql@v2", "acme/tone@v1"]
    assert {one["uses"] for one in seen["adapters"]} == {0}  # how much others use them is theirs


def test_an_administrator_sees_everything(shared: Running) -> None:
    seen = live_of(shared, "root-key")
    assert {(one["tenant"], one["adapter"]) for one in seen["traffic"]} == {
        ("acme", "acme/sql@v2"),
        ("zeta", "zeta/own@v1"),
        ("root", "acme/tone@v1"),
    }
    assert [(one["name"], one["where"], one["uses"]) for one in seen["adapters"]] == [
        ("acme/sql@v2", "slot", 1),
        ("acme/tone@v1", "slot", 1),
        ("zeta/own@v1", "slot", 1),
    ]
    assert seen["base"]["context"] == shared.serving.runtime.generation.context
    assert (seen["load"]["running"], seen["load"]["rows"], seen["load"]["loads"]) == (0, 16, 3)
