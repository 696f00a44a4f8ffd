"""A hub that speaks the Hugging Face protocol alone: the parts of the registry's contract that it keeps, run as they are,
and what it refuses. The server is ours with everything of its own taken away from the client (plain.PlainOnly)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.errors import (
    AdmissionError,
    Forbidden,
    InvalidSettings,
    RevisionNotFound,
    Unauthorized,
)
from adapthub.hub.connection import Connection
from adapthub.hub.lineage import parent_of
from adapthub.hub.plain_documents import OrganisationDocument, WhoDocument
from adapthub.hub.registry import Registry
from adapthub.hub.remote import RemoteHub
from adapthub.hub.signing import sign
from tests.hub import test_registry as contract
from tests.hub.adapters import contents, manifest, write_adapter
from tests.hub.conftest import Registries
from tests.hub.plain import PlainOnly
from tests.hub.server.live import Servers

adapters = contract.adapters
test_versions_count_from_one = contract.test_versions_count_from_one
test_the_same_digest_again_is_the_same_version = contract.test_the_same_digest_again_is_the_same_version
test_push_refuses_what_is_not_a_name = contract.test_push_refuses_what_is_not_a_name
test_a_folder_that_changed_since_it_was_read = contract.test_a_folder_that_changed_since_it_was_read
test_a_name_stays_with_its_task = contract.test_a_name_stays_with_its_task
test_every_way_to_name_a_version = contract.test_every_way_to_name_a_version
test_an_unknown_name_in_an_empty_registry = contract.test_an_unknown_name_in_an_empty_registry
test_a_commit_of_another_adapter_is_unknown = contract.test_a_commit_of_another_adapter_is_unknown
test_pull_by_every_kind_of_revision_is_one_folder = contract.test_pull_by_every_kind_of_revision_is_one_folder
test_editing_a_pulled_folder_harms_nobody = contract.test_editing_a_pulled_folder_harms_nobody
test_promote_from_an_alias = contract.test_promote_from_an_alias
test_show_says_everything = contract.test_show_says_everything
test_available = contract.test_available
test_a_signature_comes_with_a_push_and_later = contract.test_a_signature_comes_with_a_push_and_later
test_the_newest_signature_counts = contract.test_the_newest_signature_counts
test_a_signature_of_other_files_is_refused = contract.test_a_signature_of_other_files_is_refused
test_two_open_at_once_see_each_other = contract.test_two_open_at_once_see_each_other


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """A server for each folder."""
    with Servers() as begun, pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield begun


@pytest.fixture(scope="module")
def open_registry(servers: Servers) -> Registries:
    tokens: dict[Path, str] = {}

    def open_plain(folder: Path) -> Registry:
        server = servers(folder)
        if folder not in tokens:
            tokens[folder] = server.token("ada", "admin")
        connection = Connection(server.url, tokens[folder], transport=PlainOnly())
        return RemoteHub(connection, cache=folder / "cache")

    return Registries(open_plain, servers.end)


def test_who_may_push_is_asked_of_repositories_that_are_there_and_of_the_account_else(
    servers: Servers, tmp_path: Path
) -> None:
    server = servers(tmp_path)
    ada, reader, bob = server.token("ada"), server.token("ada", "read"), server.token("bob")

    def opened(token: str | None) -> RemoteHub:
        return RemoteHub(Connection(server.url, token, transport=PlainOnly()), cache=tmp_path / "cache")

    opened(ada).check_may_push("ada/ner")
    opened(ada).push(write_adapter(tmp_path / "made"), "ada/ner")
    opened(ada).check_may_push("ada/ner")
    for name in ("ada/ner", "ada/new"):
        with pytest.raises(Unauthorized, match="token|nobody is logged in"):
            opened(None).check_may_push(name)
        with pytest.raises(Forbidden, match="scope read|only reads"):
            opened(reader).check_may_push(name)
        with pytest.raises(Forbidden, match="bob may not write to ada/"):
            opened(bob).check_may_push(name)


def test_a_namespace_is_the_accounts_in_whatever_case_it_is_written() -> None:
    """There are no two of one spelling on the public hub; what it will say to the push it says then."""
    organisations = [
        OrganisationDocument(name="Acme", roleInOrg="write"),
        OrganisationDocument(name="Zeta", roleInOrg="read"),
    ]
    assert WhoDocument(name="Ada", orgs=organisations).writes_to == {"ada", "acme"}


def test_a_list_says_what_tags_and_cards_say(registry: Registry, adapters: list[Artifact]) -> None:
    registry.push(adapters[0], "acme/ner")
    registry.push(adapters[1], "zeta/ner")
    first, second = registry.list()
    assert (first.name, second.name) == ("acme/ner", "zeta/ner")
    assert [entry.name for entry in registry.list("acme")] == ["acme/ner"]
    facts = first.facts
    assert (facts.method, facts.base, facts.task) == ("lora", "org/base", "token-classification")
    assert (first.latest.number, first.latest.digest, first.versions) == (0, "", 0)
    assert [entry.name for entry in registry.search("zeta", base="org/base", method="lora")] == ["zeta/ner"]
    assert registry.search(task="text-generation") == []


def test_what_it_cannot_know_is_refused(registry: Registry, adapters: list[Artifact]) -> None:
    registry.push(adapters[0], "acme/ner", alias="prod")
    with pytest.raises(InvalidSettings, match=r"keeps no history of prod.*acme/ner@v1"):
        registry.rollback("acme/ner", "prod")
    for condition in ({"metric": "f1>0"}, {"label": "B-PER"}, {"base": f"sha256:{'0' * 64}"}):
        with pytest.raises(InvalidSettings, match="is not searched by"):
            registry.search(**condition)


def test_an_alias_is_a_tag_that_moves(registry: Registry, adapters: list[Artifact]) -> None:
    registry.push(adapters[0], "acme/ner", alias="prod")
    registry.push(adapters[1], "acme/ner", alias="prod")
    assert registry.resolve("acme/ner@prod").number == 2
    assert registry.promote("acme/ner@v1", "prod").number == 1
    (alias,) = registry.show("acme/ner").aliases
    assert (alias.name, alias.number, alias.history) == ("prod", 1, ())


def test_a_signature_lies_beside_the_newest_files(registry: Registry, adapters: list[Artifact]) -> None:
    for adapter in adapters[:2]:
        registry.push(adapter, "acme/ner")
    old = sign(adapters[0].sha256s, contract.KEY)
    with pytest.raises(InvalidSettings, match=r"acme/ner@v1 is not what acme/ner is now.*Sign the newest"):
        registry.attach_signature("acme/ner@v1", old)


def test_lineage_is_read_from_manifests(registry: Registry, tmp_path: Path) -> None:
    first = registry.push(write_adapter(tmp_path / "1", manifest=manifest()), "acme/first")
    child = manifest(parents=[parent_of(first)])
    second = registry.push(write_adapter(tmp_path / "2", seed=1, manifest=child), "acme/second")
    assert [*registry.lineage("acme/second").versions] == [second.digest, first.digest]


def test_what_other_clients_pushed(registry: Registry, servers: Servers, tmp_path: Path) -> None:
    api = servers(tmp_path).client("bob")
    adapter = write_adapter(tmp_path / "made")
    api.create_repo("acme/ner")
    with pytest.raises(AdmissionError, match="is no adapter"):
        registry.pull("acme/ner")
    api.upload_folder(repo_id="acme/ner", folder_path=adapter.path)
    api.create_branch("acme/ner", branch="draft")
    pulled = registry.pull("acme/ner@draft")
    assert pulled.digest == adapter.digest
    assert set(contents(pulled.path)) == set(adapter.files)
    assert registry.resolve("acme/ner").number == 1
    with pytest.raises(RevisionNotFound, match="newest version is v1"):
        registry.resolve("acme/ner@v2")
