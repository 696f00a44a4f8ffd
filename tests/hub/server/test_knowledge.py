"""What a hub knows of adapters, over HTTP, with Hugging Face's client publishing: bases, leaderboards, lineage, diff."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub.errors import HfHubHTTPError

from adapthub.adapters import Artifact
from adapthub.adapters.diff import difference, difference_record
from adapthub.adapters.manifest import DataRecord, Manifest
from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.lineage import parent_of
from adapthub.hub.registry import Version
from tests import asking
from tests.hub.adapters import fingerprint, known_base, manifest, write_adapter
from tests.hub.server.live import HubServer

SQUARE, WIDE = known_base(), known_base(base_seed=1, width=16)


class Api:
    """Asks a hub's own endpoints."""

    def __init__(self, server: HubServer, token: str | None = None) -> None:
        self.url = server.url
        self.headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def ask(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """An answer, whatever it says."""
        return asking.request(method, self.url + path, headers=self.headers, **options)

    def __call__(self, path: str, **params: Any) -> Any:
        answer = self.ask("GET", path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refused(self, path: str, status: int, **params: Any) -> str:
        answer = self.ask("GET", path, params=params)
        assert answer.status_code == status, answer.text
        return str(answer.json()["error"])


def upload(server: HubServer, adapter: Artifact, name: str) -> str:
    """Publish with the real client, and give the commit."""
    api = server.client("ada", "admin")
    api.create_repo(name, exist_ok=True)
    return api.upload_folder(repo_id=name, folder_path=adapter.path).oid


def test_what_does_not_land_on_its_base_is_refused_by_name(hub_server: HubServer, tmp_path: Path) -> None:
    api, admin = Api(hub_server), Api(hub_server, hub_server.token("root", "admin"))
    adapter = write_adapter(tmp_path / "before", manifest=manifest())
    upload(hub_server, adapter, "acme/before")
    assert api("/api/models/acme/before")["adapthub"]["fit"] == {
        "verdict": "unknown", "base": None, "differences": [],
    }  # fmt: skip
    for token in (None, hub_server.token("ada", "write")):
        assert Api(hub_server, token).ask("PUT", "/api/bases", content=SQUARE.to_json()).status_code in (
            401,
            403,
        )
    listed = admin.ask("PUT", "/api/bases", content=SQUARE.to_json()).json()
    assert listed["digest"] == fingerprint(0).digest
    assert api("/api/bases") == [listed]
    assert api("/api/bases/org/base")["record"] == SQUARE.model_dump(mode="json")
    assert api(f"/api/bases/{listed['digest'][7:20]}")["id"] == "org/base"

    sha = upload(hub_server, write_adapter(tmp_path / "fits", manifest=manifest(seed=1)), "acme/fits")
    known = vars(hub_server.client(None).model_info("acme/fits"))["adapthub"]
    assert known["fit"] == {"verdict": "fits", "base": listed["digest"], "differences": []}
    assert (known["version"], known["rank"], known["targets"], known["method"]) == (
        "v1",
        2,
        ["query"],
        "lora",
    )
    assert (known["base_fingerprint"], known["size"] > 0) == (listed["digest"], True)
    assert EmbeddedHub(hub_server.data).show("acme/fits").targets == ("query",)

    with pytest.raises(HfHubHTTPError, match=r"query.lora_A.weight' is \[2, 16\]; org/base needs") as caught:
        upload(hub_server, write_adapter(tmp_path / "wide", manifest=manifest(), width=16), "acme/fits")
    assert caught.value.response.status_code == 422
    assert hub_server.client(None).model_info("acme/fits").sha == sha

    other = manifest(base_seed=3)  # another base of that name, which nobody recorded
    upload(hub_server, write_adapter(tmp_path / "other", manifest=other), "acme/other")
    fit = api("/api/models/acme/other")["adapthub"]["fit"]
    assert (fit["verdict"], len(fit["differences"])) == ("fits", 4)
    wide = write_adapter(tmp_path / "other-wide", manifest=other, width=16)
    with pytest.raises(
        HfHubHTTPError, match=r"trained on another base: .*weights differ.* adapt hub base add"
    ):
        upload(hub_server, wide, "acme/other")
    plain = write_adapter(tmp_path / "plain", width=16)
    with pytest.raises(HfHubHTTPError, match=r"org/base needs"):
        upload(hub_server, plain, "acme/plain")
    assert admin.ask("PUT", "/api/bases", content=WIDE.to_json()).status_code == 200
    upload(hub_server, plain, "acme/plain")  # one of the two of that name will do
    assert api("/api/models/acme/plain")["adapthub"]["fit"]["base"] == fingerprint(1).digest

    assert admin.ask("DELETE", f"/api/bases/{listed['digest']}").json() == listed
    assert "no base" in api.refused(f"/api/bases/{listed['digest']}", 404)
    upload(hub_server, write_adapter(tmp_path / "late", manifest=manifest(seed=2), width=16), "acme/late")


def test_records_of_bases_that_are_refused(hub_server: HubServer) -> None:
    admin = Api(hub_server, hub_server.token("root", "admin"))
    for body in (
        b"",
        b"[]",
        b"{}",
        SQUARE.to_json()[:-20],
        SQUARE.to_json().replace(b'"linear"', b'"cubic"'),
    ):
        assert admin.ask("PUT", "/api/bases", content=body).status_code == 422, body
    assert admin.ask("PUT", "/api/bases", content=b" " * (32 * 2**20 + 1)).status_code == 413
    assert admin.ask("DELETE", "/api/bases/org/base").status_code == 404


def measured(data: str, f1: float, **fields: Any) -> Manifest:
    """A manifest whose f1 was measured on the rows `data`, with an interval of 0.05 around it."""
    record = DataRecord(fingerprint=data, rows=100, source="test.conll")
    return manifest(metrics={"test": {"f1": f1, "loss": 1 - f1}}, data={"test": record}, **fields)


def test_a_leaderboard_ranks_what_was_measured_on_the_same_rows(
    hub_server: HubServer, tmp_path: Path
) -> None:
    api, hub = Api(hub_server), EmbeddedHub(hub_server.data)
    made = {
        "acme/best": [measured("sha256:aa", 0.5), measured("sha256:aa", 0.9)],
        "acme/close": [measured("sha256:aa", 0.82), measured("sha256:bb", 0.99)],
        "acme/far": [measured("sha256:aa", 0.6)],
        "acme/equal": [measured("sha256:aa", 0.82)],
        "acme/base": [measured("sha256:aa", 0.95, base_seed=1)],
        "acme/task": [measured("sha256:aa", 0.95, task="text-classification")],
        "acme/train": [measured("sha256:aa", 0.95).model_copy(update={"data": {
            split: DataRecord(fingerprint="sha256:aa", rows=100) for split in ("train", "test")
        }})],
    }  # fmt: skip
    for name, versions in made.items():
        for number, one in enumerate(versions):
            hub.push(write_adapter(tmp_path / f"{name}{number}", seed=hash(name) % 99, manifest=one), name)
    asked = {"base": "org/base", "task": "token-classification", "dataset": "sha256:aa"}
    assert "2 leaderboards fit" in api.refused("/api/leaderboard", 400, **asked)
    asked["base"] = fingerprint(0).digest[:20]
    board = api("/api/leaderboard", **asked)
    assert [(one["rank"], one["ties"], one["name"], one["version"]) for one in board["standings"]] == [
        (1, 2, "acme/best", "v2"),
        (1, 2, "acme/close", "v1"),
        (1, 2, "acme/equal", "v1"),
        (4, 0, "acme/far", "v1"),
    ]
    assert (board["rows"], board["source"], board["metric"], board["cut"]) == (100, "test.conll", "f1", False)
    loss = api("/api/leaderboard", **asked, metric="loss")
    assert loss["lower_is_better"]
    assert [one["name"] for one in loss["standings"]] == [one["name"] for one in board["standings"]]
    assert len(api("/api/leaderboards")) == 4
    assert [one["dataset"] for one in api("/api/leaderboards", dataset="sha256:b")] == ["sha256:bb"]
    assert "f1, loss" in api.refused("/api/leaderboard", 404, **asked, metric="f2")
    assert "no adapter" in api.refused("/api/leaderboard", 404, task="regression")
    owner = hub_server.client("ada", "admin")
    owner.update_repo_settings("acme/best", private=True)
    assert [one["rank"] for one in api("/api/leaderboard", **asked)["standings"]] == [1, 1, 3]
    for name in ("acme/close", "acme/equal", "acme/far", "acme/best"):
        owner.delete_repo(name)
    left = api("/api/leaderboards", base=asked["base"], task=asked["task"])
    assert left == []  # what was measured on other rows went with its repository


def test_a_board_is_called_as_what_is_seen_says(hub_server: HubServer, tmp_path: Path) -> None:
    """Not as the first comer called it, who may be private."""
    hub, api = EmbeddedHub(hub_server.data), Api(hub_server)
    secret = DataRecord(fingerprint="sha256:aa", rows=7, source="/home/eve/secret.conll")
    eve = measured("sha256:aa", 0.9, base="eve/base").model_copy(update={"data": {"test": secret}})
    hub.push(write_adapter(tmp_path / "eve", seed=1, manifest=eve), "eve/first")
    hub_server.client("eve").update_repo_settings("eve/first", private=True)
    assert api("/api/leaderboards") == []
    hub.push(write_adapter(tmp_path / "ada", seed=2, manifest=measured("sha256:aa", 0.8)), "ada/second")
    (board,) = api("/api/leaderboards", base="org/base")
    assert (board["base_id"], board["source"], board["rows"]) == ("org/base", "test.conll", 100)
    assert api("/api/leaderboards", base="eve/base") == []
    assert "secret" not in str(api("/api/leaderboard"))
    own = Api(hub_server, hub_server.token("eve"))
    assert own("/api/leaderboard", base="eve/base")["source"] == secret.source
    admin = Api(hub_server, hub_server.token("root", "admin"))
    assert admin.ask("PUT", "/api/bases", content=SQUARE.to_json()).status_code == 200
    assert own("/api/leaderboard", base="org/base")["base_id"] == "org/base"


def test_where_an_adapter_comes_from_and_what_came_of_it(hub_server: HubServer, tmp_path: Path) -> None:
    api, hub = Api(hub_server), EmbeddedHub(hub_server.data)

    def push(name: str, *parents: str) -> Version:
        made = manifest(parents=list(parents), seed=len(name))
        return hub.push(write_adapter(tmp_path / name, manifest=made), name)

    root = push("acme/root")
    left, right = push("acme/left", parent_of(root)), push("acme/right", parent_of(root), "acme/root@v1")
    last = push("acme/last", parent_of(left), parent_of(right), "acme/gone@" + "a" * 64)
    found = api("/api/models/acme/right/lineage")
    assert [(one["name"], one["version"]) for one in found["versions"]] == [
        ("acme/right", "v1"), ("acme/root", "v1"),
    ]  # fmt: skip
    assert [one["digest"] for one in found["descendants"]] == [last.digest]
    assert (found["unpinned"], found["cut"]) == (["acme/root@v1"], False)
    up = api("/api/models/acme/last/lineage", revision=last.digest)["versions"]
    assert [(one["name"], one["found"]) for one in up] == [
        ("acme/last", True), ("acme/left", True), ("acme/right", True), ("acme/gone", False), ("acme/root", True),
    ]  # fmt: skip
    owner = hub_server.client("ada", "admin")
    owner.update_repo_settings("acme/left", private=True)
    assert [one["found"] for one in api("/api/models/acme/last/lineage")["versions"]] == [
        True,
        False,
        True,
        False,
        True,
    ]
    assert [one["name"] for one in api("/api/models/acme/root/lineage")["descendants"]] == [
        "acme/right",
        "acme/last",
    ]
    owner.move_repo("acme/root", "acme/renamed")
    assert api("/api/models/acme/right/lineage")["versions"][1]["name"] == "acme/renamed"
    owner.delete_repo("acme/renamed")
    gone = api("/api/models/acme/right/lineage")["versions"][1]
    assert (gone["name"], gone["version"], gone["found"]) == ("acme/root", None, False)


def test_what_composes(hub_server: HubServer, tmp_path: Path) -> None:
    api, hub = Api(hub_server), EmbeddedHub(hub_server.data)
    for seed in range(4):
        labels = ("O", "B-PER") if seed < 3 else ("O", "B-LOC")
        made = manifest(labels=labels, seed=seed, base_seed=int(seed == 2))
        hub.push(write_adapter(tmp_path / str(seed), seed=seed, manifest=made), f"acme/a{seed}")
    hub.push(write_adapter(tmp_path / "plain"), "acme/plain")
    with_one = api("/api/models/acme/a0/composes", **{"with": "acme/a1@v1"})
    assert (with_one["with"], with_one["version"], with_one["merged_rank"]) == ("acme/a1", "v1", 4)
    assert with_one["merge"]["possible"] is True
    first = api.ask("GET", "/api/models/acme/a0/composes", params={"limit": 2})
    second = api.ask("GET", first.links["next"]["url"].removeprefix(api.url))
    found = [*first.json(), *second.json()]
    assert [(one["with"], one["batch"]["possible"], one["sum"]["possible"]) for one in found] == [
        ("acme/a3", True, False), ("acme/a1", True, True),
    ]  # fmt: skip
    assert "next" not in second.links
    assert api("/api/models/acme/plain/composes") == []
    unknown = api("/api/models/acme/plain/composes", **{"with": "acme/a0"})
    assert unknown["batch"]["possible"] is None
    api.refused("/api/models/acme/a0/composes", 404, **{"with": "acme/none"})


def test_what_changed(hub_server: HubServer, tmp_path: Path) -> None:
    api = Api(hub_server)
    first, second = (
        write_adapter(tmp_path / str(seed), seed=seed, manifest=manifest(seed=seed)) for seed in range(2)
    )
    for adapter in (first, second):
        upload(hub_server, adapter, "acme/ner")
    upload(hub_server, second, "acme/other")
    expected = difference_record(difference(first, second))
    found = api("/api/models/acme/ner/diff/v1..main")
    assert found == expected
    assert found["modules"][0]["difference"] > 0
    assert api("/api/models/acme/ner/diff/v1..acme%2Fother@v1") == expected
    for span in ("v1", "v1..", "..v1", "v1..v9", "v1..acme%2Fnone"):
        api.refused(
            f"/api/models/acme/ner/diff/{span}", 404 if span.startswith("v1..") and span != "v1.." else 400
        )
