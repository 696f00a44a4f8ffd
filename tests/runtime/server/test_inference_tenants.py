"""Hugging Face's client with a tenant's key: what is there for it, how much it may send, and what is written down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from adapthub.hub.storage.database import Database
from adapthub.runtime.server.lifecycle import Running
from adapthub.runtime.tenants.tables import SCHEMA
from adapthub.runtime.tenants.tenant_gate import open_gate
from adapthub.runtime.tenants.usage import usage_report
from tests.runtime.server.encoders import write_encoder_hub
from tests.runtime.server.live import live, settings_for
from tests.runtime.server.test_tenants import add


@pytest.fixture(autouse=True)
def reaches_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests are offline; this client then refuses to ask even this machine."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ledger") / "tenants.sqlite"


@pytest.fixture(scope="module")
def keys(ledger: Path) -> dict[str, str]:
    """One that may use one adapter, and one that may send few tokens."""
    return {
        "one": add(ledger, "one", "acme/mood"),
        "few": add(ledger, "few", "acme/*", tokens_per_minute=20),
    }


@pytest.fixture(scope="module")
def tenanted(
    tiny_base: Path, ledger: Path, keys: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    hub = write_encoder_hub(tiny_base, tmp_path_factory.mktemp("tenanted"))
    with live(settings_for(tiny_base), hub, open_gate(ledger)) as running:
        yield running


def ask(running: Running, name: str, key: str) -> InferenceClient:
    return InferenceClient(model=f"{running.address}/models/{name}", token=key)


def test_what_a_tenant_may_not_use_is_not_there(tenanted: Running, keys: dict[str, str]) -> None:
    assert ask(tenanted, "acme/mood", keys["one"]).text_classification("ada")
    refused = []
    for name in ("acme/ner", "acme/none"):
        with pytest.raises(HfHubHTTPError) as caught:
            ask(tenanted, name, keys["one"]).token_classification("ada")
        assert caught.value.response.status_code == 404
        refused.append(caught.value.response.json()["error"].replace(name, "it"))
    assert refused[0] == refused[1]


def test_limits_and_the_ledger(tenanted: Running, ledger: Path, keys: dict[str, str]) -> None:
    client = ask(tenanted, "acme/ner@prod", keys["few"])
    client.token_classification("ada was born in london")
    with pytest.raises(HfHubHTTPError, match="tokens") as caught:
        client.token_classification("ada was born in london " * 3)
    assert caught.value.response.status_code == 429
    assert int(caught.value.response.headers["Retry-After"]) > 0
    with closing(Database(ledger, SCHEMA)) as database:
        (row,) = usage_report(database, ("tenant", "adapter", "kind"), tenant="few")
    assert row == {
        "tenant": "few",
        "adapter": "acme/ner@v1",
        "kind": "token-classification",
        "requests": 1,
        "prompt_tokens": 7,
        "cached_tokens": 0,
        "completion_tokens": 0,
    }
