"""Our client over the public Hub's answers, as exchange.py says; nothing of them was recorded from the public Hub itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.errors import AdapterNotFound, IntegrityError, RevisionNotFound, Unreachable
from adapthub.hub.connection import Connection
from adapthub.hub.remote import RemoteHub
from tests.hub.adapters import contents
from tests.hub.exchange import CDN, HUB, Replay


@pytest.fixture
def replay() -> Replay:
    return Replay()


@pytest.fixture
def hub(replay: Replay, tmp_path: Path) -> RemoteHub:
    return RemoteHub(Connection(HUB, "secret", transport=replay), name="hf", cache=tmp_path / "cache")


def test_versions_are_the_commits_that_made_an_adapter(hub: RemoteHub) -> None:
    details = hub.show("hf::acme/ner")
    assert [version.number for version in details.versions] == [3, 2, 1]
    assert [version.message for version in details.versions] == ["Upload 3", "Upload 2", "Upload 1"]
    assert [(alias.name, alias.number) for alias in details.aliases] == [("release", 2)]
    assert details.manifest is not None
    assert details.facts.labels == ("O", "B-PER")
    assert hub.resolve("acme/ner@v1") == details.versions[2]
    assert hub.resolve("acme/ner@release") == details.versions[1]


def test_a_pull_leaves_out_what_training_left_and_keeps_the_token_at_home(
    hub: RemoteHub, replay: Replay
) -> None:
    pulled = hub.pull("acme/ner")
    assert set(contents(pulled.path)) == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "adapthub.json",
    }
    assert Artifact.read(pulled.path).digest == hub.resolve("acme/ner").digest
    tokens = {request.url.host: request.headers.get("authorization") for request in replay.asked}
    assert tokens == {"hub.example": "Bearer secret", "cdn.example": None}


def test_everything_after_the_name_goes_by_the_commit(hub: RemoteHub, replay: Replay) -> None:
    hub.pull("acme/ner@release")
    paths = [request.url.path for request in replay.asked]
    assert [path for path in paths if "release" in path] == ["/api/models/acme/ner/revision/release"]
    assert not [path for path in paths if "/main" in path]


def test_the_cache_spares_the_second_download(hub: RemoteHub, replay: Replay) -> None:
    first = hub.pull("acme/ner@v3")
    before = len([one for one in replay.asked if one.url.host == "cdn.example"])
    assert hub.pull("acme/ner") == first
    assert len([one for one in replay.asked if one.url.host == "cdn.example"]) == before == 1


def test_a_list_of_two_pages(hub: RemoteHub) -> None:
    first, second = hub.list("acme")
    assert (first.name, first.facts.base, first.facts.method) == ("acme/ner", "org/base", "lora")
    assert (second.name, second.facts.base, second.facts.task) == ("acme/zeta", "org/other", None)


def test_what_is_not_there(hub: RemoteHub) -> None:
    assert hub.available("acme/none")
    with pytest.raises(AdapterNotFound, match="acme/none"):
        hub.pull("acme/none")
    with pytest.raises(RevisionNotFound, match="nothing"):
        hub.pull("acme/ner@nothing")


@pytest.mark.parametrize("host", [HUB, CDN])
def test_wrong_bytes_are_never_used(hub: RemoteHub, replay: Replay, tmp_path: Path, host: str) -> None:
    """The right length under the right ETag, which Hugging Face's own client accepts."""
    for (method, url), answer in list(replay._answers.items()):
        if url.startswith(host) and ("/resolve/" in url or host == CDN) and answer["status"] == 200:
            swapped = {"A": "B", "B": "A"}
            body = answer["body"]
            replay._answers[method, url] = {**answer, "body": swapped.get(body[0], "A") + body[1:]}
    with pytest.raises(IntegrityError, match=r"other bytes of (README\.md|adapter_\w+\.\w+|adapthub\.json)"):
        hub.pull("acme/ner")
    assert not [path for path in (tmp_path / "cache").glob("*") if len(path.name) == 64]


def test_offline_it_is_what_it_was(tmp_path: Path, hub: RemoteHub, caplog: pytest.LogCaptureFixture) -> None:
    pulled = hub.pull("acme/ner@release")
    offline = RemoteHub(Connection(HUB, offline="HF_HUB_OFFLINE is set"), name="hf", cache=tmp_path / "cache")
    assert offline.pull("hf::acme/ner@release") == pulled
    assert "used as it was pulled last" in caplog.text
    with pytest.raises(Unreachable, match="HF_HUB_OFFLINE"):
        offline.pull("acme/ner@main")
    with pytest.raises(Unreachable):
        offline.resolve("acme/ner@release")
