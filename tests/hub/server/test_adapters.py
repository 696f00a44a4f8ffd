"""Lists and searches of adapters over HTTP: the answers of `Registry.search`, page by page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapthub.hub.documents import entry_record
from adapthub.hub.embedded import EmbeddedHub
from tests import asking
from tests.hub.adapters import fingerprint, manifest, write_adapter
from tests.hub.server.live import HubServer


@pytest.fixture
def hub(hub_server: HubServer, tmp_path: Path) -> EmbeddedHub:
    """Seven adapters behind a server, and one of another namespace that has no manifest."""
    hub = EmbeddedHub(hub_server.data)
    for seed in range(7):
        made = manifest(
            base="org/even" if seed % 2 == 0 else "org/odd",
            base_seed=seed % 2,
            metrics={"test": {"f1": 0.5 + seed // 2 / 10}},
            task="token-classification" if seed < 4 else "text-classification",
            labels=("O", f"B-{seed % 3}"),
        )
        hub.push(write_adapter(tmp_path / str(seed), seed=seed, manifest=made), f"acme/a{seed}")
    hub.push(write_adapter(tmp_path / "plain", seed=9), "ada/plain", message="the plain one")
    return hub


def pages(server: HubServer, **params: Any) -> list[Any]:
    """Every record, following the links."""
    found: list[Any] = []
    url: str | None = f"{server.url}/api/adapters"
    while url is not None:
        answer = asking.get(url, params=params if not found else None)
        assert answer.status_code == 200, answer.text
        found += answer.json()
        url = answer.links.get("next", {}).get("url")
    return found


CONDITIONS: list[dict[str, str]] = [
    {},
    {"base": "org/even"},
    {"base": fingerprint(0).digest},
    {"base": fingerprint(1).digest[:16]},
    {"base": "sha256:0000000"},
    {"task": "token-classification", "base": "org/even"},
    {"method": "lora", "label": "B-1"},
    {"metric": "f1>=0.6"},
    {"metric": "f1 < 0.75", "task": "token-classification"},
    {"metric": "f1>=0.5", "base": "org/odd", "text": "acme"},
    {"metric": "f1>=0.9"},
    {"text": "PLAIN one"},
    {"text": "a3"},
    {"text": "acme", "label": "B-2", "method": "lora"},
]


def test_it_finds_what_the_registry_finds(hub_server: HubServer, hub: EmbeddedHub) -> None:
    for conditions in CONDITIONS:
        expected = {entry.name: entry_record(entry) for entry in hub.search(**conditions)}
        found = pages(hub_server, **conditions, limit=3)
        assert len(found) == len(expected), conditions
        assert {record["name"]: record for record in found} == expected, conditions
        assert found == sorted(found, key=order(conditions), reverse=True), conditions


def order(conditions: dict[str, str]) -> Callable[[Any], Any]:
    """Newest first, or best first."""
    if "metric" not in conditions:
        return lambda record: record["created"]
    sign = -1 if "<" in conditions["metric"] else 1
    return lambda record: sign * record["metrics"][0]["value"]


def test_a_namespace(hub_server: HubServer, hub: EmbeddedHub) -> None:
    assert [record["name"] for record in pages(hub_server, namespace="ada")] == ["ada/plain"]
    names = [
        record["name"] for record in pages(hub_server, namespace="acme", task="token-classification", limit=1)
    ]
    assert names == ["acme/a3", "acme/a2", "acme/a1", "acme/a0"]
    assert [record["name"] for record in pages(hub_server, namespace="acme", text="a1")] == ["acme/a1"]


def test_what_is_private_is_found_by_its_own(hub_server: HubServer, hub: EmbeddedHub) -> None:
    token = {"Authorization": f"Bearer {hub_server.token('ada')}"}
    hub_server.client("ada").update_repo_settings("ada/plain", private=True)
    assert pages(hub_server, text="plain") == []
    own = asking.get(f"{hub_server.url}/api/adapters", params={"text": "plain"}, headers=token).json()
    assert [record["name"] for record in own] == ["ada/plain"]


def test_what_is_private_in_a_namespace_that_is_nobodys_is_found_by_whoever_has_a_token(
    hub_server: HubServer, hub: EmbeddedHub
) -> None:
    token = {"Authorization": f"Bearer {hub_server.token('bob')}"}
    for name in ("acme/a1", "ada/plain"):
        hub_server.client("ada").update_repo_settings(name, private=True)
    assert pages(hub_server, text="a1") == []
    found = {
        text: asking.get(f"{hub_server.url}/api/adapters", params={"text": text}, headers=token).json()
        for text in ("a1", "plain")
    }
    assert ([record["name"] for record in found["a1"]], found["plain"]) == (["acme/a1"], [])


def test_repositories_without_a_version_are_no_adapters(hub_server: HubServer) -> None:
    hub_server.client().create_repo("ada/empty")
    assert pages(hub_server) == []


def test_conditions_that_do_not_read(hub_server: HubServer) -> None:
    wrong = [
        {"metric": "f1"},
        {"metric": "f1>=x"},
        {"cursor": "x"},
        {"cursor": "9" * 40},
        {"cursor": "1:2"},
        {"metric": "f1>0", "cursor": "3"},
        {"metric": "f1>0", "cursor": "a:3"},
        {"limit": "0"},
    ]
    for conditions in wrong:
        answer = asking.get(f"{hub_server.url}/api/adapters", params=conditions)
        assert answer.status_code == 400, conditions
        assert answer.headers["X-Error-Message"]
