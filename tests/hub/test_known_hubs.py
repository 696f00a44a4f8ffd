"""Names, addresses and tokens of hubs, and one registry over several of them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from adapthub.adapters.errors import (
    AdapterNotFound,
    InvalidReference,
    InvalidSettings,
    StorageError,
    Unreachable,
)
from adapthub.hub import open_hub
from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.known_hubs import KnownHub, find_hub, forget_hub, known_hubs, remember_hub
from adapthub.hub.many_hubs import ManyHubs
from adapthub.hub.registry import Registry
from adapthub.hub.remote import RemoteHub
from tests.hub.adapters import write_adapter

URL = "https://hub.acme.example"


def test_a_hub_is_found_by_its_name_and_its_address(own_home: Path) -> None:
    remember_hub(f"{URL}/", "ah_1", "acme")
    acme = KnownHub("acme", URL, "ah_1")
    assert find_hub("acme") == find_hub(URL) == find_hub(f"{URL}/") == acme
    assert known_hubs() == {"acme": acme}
    assert stat.S_IMODE((own_home / "hubs.json").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "where",
    ["http://hub.acme.example", f"{URL}:8443", f"{URL}/other", "https://hub.acme.example.evil.example"],
)
def test_a_token_is_for_the_very_address(where: str) -> None:
    remember_hub(URL, "ah_1", "acme")
    assert find_hub(where).token is None


def test_the_public_hub_is_where_hugging_faces_client_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9/")
    monkeypatch.setenv("HF_TOKEN", "hf_own")
    assert find_hub("hf") == KnownHub("hf", "http://127.0.0.1:9", "hf_own")
    monkeypatch.delenv("HF_ENDPOINT")
    assert find_hub("hf").url.startswith("https://")


def test_logging_in_again_replaces_the_token(own_home: Path) -> None:
    remember_hub(URL, "ah_1", "acme")
    assert remember_hub(URL, "ah_2") == KnownHub("acme", URL, "ah_2")
    assert remember_hub("http://127.0.0.1:7860", "ah_3").name == "127.0.0.1_7860"
    with pytest.raises(InvalidSettings, match=r"acme is https://hub\.acme\.example"):
        remember_hub("https://other.example", "ah_4", "acme")
    forget_hub("acme")
    assert [*known_hubs()] == ["127.0.0.1_7860"]
    for nobodys in (URL, "hf"):
        with pytest.raises(InvalidSettings, match="nobody is logged in"):
            forget_hub(nobodys)


@pytest.mark.parametrize("name", ["hf", "local"])
def test_names_that_mean_another_hub(name: str) -> None:
    with pytest.raises(InvalidSettings, match="another hub"):
        remember_hub(URL, "ah_1", name)


@pytest.mark.parametrize("name", ["a/b", "", "a::b", "-a"])
def test_names_that_no_reference_can_begin_with(name: str) -> None:
    with pytest.raises(InvalidReference):
        remember_hub(URL, "ah_1", name)


@pytest.mark.parametrize(
    "url", ["hub.acme.example", "ftp://hub", "https://u:p@hub", "https://hub?a=b", "https://", "file:///tmp"]
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(InvalidSettings, match="address"):
        remember_hub(url, "ah_1")


def test_an_unknown_name_suggests_near_ones() -> None:
    remember_hub(URL, "ah_1", "acme")
    with pytest.raises(InvalidSettings, match="no hub 'acne' here. Did you mean 'acme'"):
        open_hub("acne")


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', '{"a": {}}', '{"a": {"url": 3}}'])
def test_a_damaged_file_is_named(own_home: Path, text: str) -> None:
    (own_home / "hubs.json").write_text(text)
    with pytest.raises(StorageError, match=r"hubs\.json is damaged. Remove it"):
        find_hub("acme")


# several hubs at once


def test_what_open_hub_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    def first(hub: Registry) -> Registry:
        assert isinstance(hub, ManyHubs)
        return hub.first

    assert isinstance(first(open_hub()), EmbeddedHub)
    served = first(open_hub("http://127.0.0.1:9"))
    assert isinstance(served, RemoteHub)
    monkeypatch.setenv("ADAPTHUB_HUB", "http://127.0.0.1:9")
    assert isinstance(first(open_hub()), RemoteHub)
    assert isinstance(first(open_hub("local")), EmbeddedHub)


def test_a_public_hub_that_may_not_be_asked() -> None:
    """The tests run with HF_HUB_OFFLINE."""
    with pytest.raises(Unreachable, match="HF_HUB_OFFLINE"):
        open_hub().pull("hf::acme/ner")


def test_a_reference_says_which_hub(tmp_path: Path) -> None:
    first, other = (EmbeddedHub(tmp_path / name, cache=tmp_path / "cache") for name in ("first", "other"))

    def open_named(name: str) -> Registry:
        if name != "other":
            raise InvalidSettings(f"there is no hub {name!r} here")
        return other

    hubs = ManyHubs(first, open_named)
    adapter = write_adapter(tmp_path / "made")
    version = hubs.push(adapter, "other::acme/ner", alias="prod")
    assert version.name == "other::acme/ner"
    assert first.available("acme/ner")
    assert hubs.resolve("other::acme/ner@prod") == version
    assert hubs.pull(f"{version.name}@{version.digest}").digest == adapter.digest
    assert [one.name for one in hubs.show("other::acme/ner").versions] == ["other::acme/ner"]
    assert not hubs.available("other::acme/ner")
    assert hubs.promote("other::acme/ner@v1", "beta") == version
    with pytest.raises(AdapterNotFound):
        hubs.pull("acme/ner")
    with pytest.raises(InvalidReference, match="elsewhere::acme/ner: there is no hub 'elsewhere'"):
        hubs.pull("elsewhere::acme/ner")
