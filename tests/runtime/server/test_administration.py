"""Adapters in and out, aliases moved live, and what an administrator is refused: over HTTP, on a server of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from adapthub.adapters.artifact import Artifact, write_artifact
from adapthub.adapters.base import load_base
from adapthub.adapters.manifest import BaseRecord, Manifest
from adapthub.hub.registry import Registry
from adapthub.runtime.server.lifecycle import Running
from adapthub.runtime.tenants.caller import Caller
from adapthub.runtime.tenants.gate import OpenGate
from tests import asking
from tests.adapters.causal_pass import CAUSAL, write_causal_base
from tests.adapters.peft_oracle import save_adapter
from tests.runtime.generating import lora
from tests.runtime.server.live import live, settings_for, write_hub


@pytest.fixture(scope="module")
def hub(served_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return write_hub(served_base, tmp_path_factory.mktemp("administered"))


@pytest.fixture(scope="module")
def running(served_base: Path, hub: Registry) -> Iterator[Running]:
    with live(settings_for(served_base, slots=2), hub) as running:
        yield running


@pytest.fixture
def http(running: Running) -> Iterator[httpx2.Client]:
    with asking.client(base_url=running.address) as client:
        yield client


@pytest.fixture(scope="module")
def folder(served_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that is in no hub."""
    return save_adapter(served_base, tmp_path_factory.mktemp("plain") / "adapter", CAUSAL, lora(), seed=9)


def residents(http: httpx2.Client) -> dict[str, dict[str, Any]]:
    """By the names of each."""
    return {name: one for one in http.get("/admin/adapters").json()["adapters"] for name in one["names"]}


def test_load_pin_unpin_and_unload_show_where_an_adapter_is(http: httpx2.Client) -> None:
    model = {"model": "acme/sql@prod"}
    assert http.post("/admin/adapters/load", json=model).json() == {**model, "version": "acme/sql@v1"}
    found = residents(http)["acme/sql@v1"]
    assert (found["state"], found["pinned"], found["holders"]) == ("slot", False, 0)
    assert found["bytes"] > 0
    http.post("/admin/adapters/pin", json=model).raise_for_status()
    assert residents(http)["acme/sql@v1"]["pinned"]
    http.post("/admin/adapters/unpin", json=model).raise_for_status()
    assert not residents(http)["acme/sql@v1"]["pinned"]
    http.post("/admin/adapters/unload", json=model).raise_for_status()
    assert "acme/sql@v1" not in residents(http)
    again = http.post("/admin/adapters/unload", json=model)
    assert (again.status_code, again.json()["error"]["code"]) == (404, "model_not_found")


def test_more_cannot_be_pinned_than_there_are_slots(http: httpx2.Client) -> None:
    names = ("acme/sql@v1", "acme/sql@v2", "acme/tone@v1")
    answers = [http.post("/admin/adapters/pin", json={"model": name}) for name in names]
    assert [answer.status_code for answer in answers] == [200, 200, 503]
    assert "2 slots" in answers[2].json()["error"]["message"]
    for name in names[:2]:
        http.post("/admin/adapters/unload", json={"model": name}).raise_for_status()
    assert http.post("/admin/adapters/pin", json={"model": names[2]}).status_code == 200
    http.post("/admin/adapters/unload", json={"model": names[2]}).raise_for_status()


def test_vllms_endpoints_answer_as_vllm_does(http: httpx2.Client, folder: Path) -> None:
    body = {"lora_name": "mine", "lora_path": str(folder)}
    loaded = http.post("/v1/load_lora_adapter", json=body)
    assert (loaded.status_code, loaded.text) == (200, "Success: LoRA adapter 'mine' added successfully.")
    assert "mine" in [model["id"] for model in http.get("/v1/models").json()["data"]]
    twice = http.post("/v1/load_lora_adapter", json=body)
    assert (twice.status_code, twice.json()["error"]["type"]) == (400, "InvalidUserInput")
    assert "has already been loaded" in twice.json()["error"]["message"]
    assert http.post("/v1/load_lora_adapter", json={**body, "load_inplace": True}).status_code == 200
    gone = http.post("/v1/unload_lora_adapter", json={"lora_name": "mine"})
    assert gone.text == "Success: LoRA adapter 'mine' removed successfully."
    assert "mine" not in residents(http)
    unknown = http.post("/v1/unload_lora_adapter", json={"lora_name": "mine"})
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "NotFoundError")
    assert unknown.json()["error"]["code"] == 404


def test_a_reference_may_be_loaded_by_another_name(http: httpx2.Client) -> None:
    body = {"lora_name": "sql-now", "lora_path": "acme/sql@prod"}
    http.post("/v1/load_lora_adapter", json=body).raise_for_status()
    assert residents(http)["sql-now"] == residents(http)["acme/sql@v1"]
    http.post("/v1/unload_lora_adapter", json={"lora_name": "sql-now"}).raise_for_status()


@pytest.mark.parametrize(
    ("name", "path", "status", "words"),
    [
        ("new", "/none/such", 404, "no adapter folder at /none/such"),
        ("new", "acme/none", 404, "does not exist"),
        ("../new", "acme/sql", 400, "is not a name"),
        ("a + b", "acme/sql", 400, "is not a name"),
        ("a\nb", "acme/sql", 400, "is not a name"),
        ("acme/sql", "acme/tone", 400, "is an adapter of the hub"),
        ("a..b", "acme/sql", 400, "is not a name"),
        ("new", "./none", 404, "no adapter folder at ./none"),
        ("new", "~/none", 404, "no adapter folder at ~/none"),
        ("new", "0.5*acme/sql + 0.5*acme/tone", 400, "is a sum"),
    ],
)
def test_what_cannot_be_loaded_is_refused(
    http: httpx2.Client, name: str, path: str, status: int, words: str
) -> None:
    answer = http.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": path})
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]


def test_nothing_is_loaded_by_the_bases_name(http: httpx2.Client, running: Running) -> None:
    body = {"lora_name": running.serving.catalog.base_name, "lora_path": "acme/sql"}
    answer = http.post("/v1/load_lora_adapter", json=body)
    assert answer.status_code == 400
    assert "is the base model's name" in answer.json()["error"]["message"]


def test_a_path_that_no_expression_can_name_is_refused(
    http: httpx2.Client, folder: Path, tmp_path: Path
) -> None:
    spaced = tmp_path / "with space"
    shutil.copytree(folder, spaced)
    answer = http.post("/v1/load_lora_adapter", json={"lora_name": "new", "lora_path": str(spaced)})
    assert answer.status_code == 400
    assert "white space" in answer.json()["error"]["message"]


def test_an_adapter_of_another_base_is_refused_naming_both(
    http: httpx2.Client, hub: Registry, served_base: Path, tmp_path: Path
) -> None:
    other = write_causal_base(tmp_path / "other-base", vocab_size=192)
    plain = Artifact.read(save_adapter(other, tmp_path / "plain", CAUSAL, lora(), seed=0))
    trained_on = BaseRecord(id=str(other), fingerprint=load_base(str(other), device="cpu").fingerprint)
    adapter = tmp_path / "other"
    manifest = Manifest(task="text-generation", base=trained_on, method="lora")
    write_artifact(adapter, manifest=manifest, card="", config=plain.config, tensors=plain.tensors())
    hub.push(Artifact.read(adapter), "other/sql", alias="prod")
    answers = [
        http.post("/admin/adapters/load", json={"model": "other/sql"}),
        http.post("/v1/load_lora_adapter", json={"lora_name": "new", "lora_path": str(adapter)}),
        http.post("/admin/promote", json={"ref": "other/sql", "alias": "live"}),
    ]
    for answer in answers:
        assert answer.status_code == 400
        message = answer.json()["error"]["message"]
        assert str(other) in message, message
        assert str(served_base) in message, message
    assert "live" not in [alias.name for alias in hub.show("other/sql").aliases]
    assert "other/sql" not in [model["id"] for model in http.get("/v1/models").json()["data"]]


def test_promote_and_roll_back_are_live_at_once(http: httpx2.Client, hub: Registry) -> None:
    def meant() -> str:
        answer = http.post("/admin/adapters/load", json={"model": "acme/sql@prod"})
        return str(answer.json()["version"])

    assert meant() == "acme/sql@v1"
    moved = http.post("/admin/promote", json={"ref": "acme/sql@v2", "alias": "prod"}).json()
    assert (moved["name"], moved["version"], moved["alias"]) == ("acme/sql", "v2", "prod")
    assert meant() == "acme/sql@v2"
    assert hub.resolve("acme/sql@prod").number == 2
    assert http.post("/admin/rollback", json={"name": "acme/sql", "alias": "prod"}).json()["version"] == "v1"
    assert meant() == "acme/sql@v1"
    nothing_left = http.post("/admin/rollback", json={"name": "acme/sql", "alias": "prod"})
    assert nothing_left.status_code == 404


def test_status_says_what_runs(http: httpx2.Client, running: Running) -> None:
    status = http.get("/admin/status").json()
    assert status["state"] == "ready"
    assert status["base"]["name"] == running.serving.catalog.base_name
    assert status["generation"]["kv_tokens"] == 8192
    assert status["generation"]["waiting"] == 0
    assert status["memory"]["free"] > 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/admin/adapters/load", {}),
        ("/admin/adapters/load", {"model": 3}),
        ("/admin/adapters/load", {"model": "acme/sql", "when": "now"}),
        ("/admin/adapters/pin", {"model": "../../etc/passwd"}),
        ("/admin/promote", {"ref": "acme/sql"}),
        ("/admin/promote", {"ref": "acme/sql", "alias": "v2"}),
        ("/v1/load_lora_adapter", {"lora_name": "new"}),
    ],
)
def test_malformed_requests_are_refused(http: httpx2.Client, path: str, body: dict[str, Any]) -> None:
    answer = http.post(path, json=body)
    assert answer.status_code in (400, 404), answer.text
    assert answer.json()["error"]["message"]


class _TenantGate(OpenGate):
    """Everybody is one tenant, and no administrator."""

    def authenticate(self, key: str | None) -> Caller:
        return Caller("acme", ("*",))


def test_a_tenant_is_no_administrator(served_base: Path, served_hub: Registry) -> None:
    with (
        live(settings_for(served_base), served_hub, _TenantGate()) as running,
        asking.client(base_url=running.address) as http,
    ):
        paths = {
            path: methods
            for path, methods in http.get("/openapi.json").json()["paths"].items()
            if path.startswith("/admin") or path.endswith("_lora_adapter")
        }
        assert len(paths) > 12
        for path, methods in paths.items():
            for method in methods:
                answer = http.request(method.upper(), path, json={})
                assert answer.status_code == 403, (method, path, answer.text)


def test_named_adapters_are_loaded_first_and_the_others_are_not_there(
    served_base: Path, served_hub: Registry
) -> None:
    settings = settings_for(served_base, adapters=("acme/sql@prod", "zeta/*"))
    with live(settings, served_hub) as running, asking.client(base_url=running.address) as http:
        assert [(name, one["state"]) for name, one in residents(http).items()] == [("acme/sql@v1", "slot")]
        models = [model["id"] for model in http.get("/v1/models").json()["data"]]
        assert models[1:] == ["acme/sql", "zeta/own"]
        assert http.post("/admin/adapters/load", json={"model": "acme/tone"}).status_code == 404


def test_drain_refuses_what_comes_and_says_that_nothing_runs(served_base: Path, served_hub: Registry) -> None:
    with (
        live(settings_for(served_base), served_hub) as running,
        asking.client(base_url=running.address) as http,
    ):
        assert http.post("/admin/drain").json() == {"drained": True, "in_flight": 0}
        assert http.get("/ready").status_code == 503
        assert http.get("/health").status_code == 200
        assert http.get("/admin/status").json()["state"] == "draining"
