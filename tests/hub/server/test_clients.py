"""Hugging Face's real client against a real server: what a user does, from the first repository to the last download."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfFileSystem,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from adapthub.hub.embedded import EmbeddedHub
from tests.hub.adapters import contents, manifest, write_adapter
from tests.hub.server.live import HubServer

CARD = "---\nlicense: mit\ntags: [finance]\nbase_model: org/base\npipeline_tag: token-classification\n---\n# Names\n"


def test_an_adapter_from_upload_to_download(hub_server: HubServer, tmp_path: Path) -> None:
    api = hub_server.client()
    adapter = write_adapter(tmp_path / "made", manifest=manifest(metrics={"test": {"f1": 0.8}}), card=CARD)
    assert str(api.create_repo("ada/ner")) == f"{hub_server.url}/ada/ner"
    done = api.upload_folder(repo_id="ada/ner", folder_path=adapter.path, commit_message="the first")
    info = api.model_info("ada/ner", files_metadata=True)
    assert info.sha == done.oid
    assert {file.rfilename: file.size for file in info.siblings or ()} == {
        name: record.size for name, record in adapter.files.items()
    }
    weights = next(file for file in info.siblings or () if file.rfilename.endswith(".safetensors"))
    assert weights.lfs is not None
    assert weights.lfs.sha256 == adapter.files["adapter_model.safetensors"].sha256
    assert info.card_data is not None
    assert info.card_data["license"] == "mit"
    assert {"license:mit", "finance", "base_model:adapter:org/base", "lora"} <= set(info.tags or ())
    folder = snapshot_download("ada/ner", endpoint=hub_server.url, cache_dir=tmp_path / "cache")
    assert contents(Path(folder)) == contents(adapter.path)


def test_what_a_client_uploads_the_embedded_hub_pulls_and_the_other_way(
    hub_server: HubServer, tmp_path: Path
) -> None:
    api, embedded = hub_server.client(), EmbeddedHub(hub_server.data)
    first, second = (write_adapter(tmp_path / str(seed), seed=seed, card=CARD) for seed in range(2))
    api.create_repo("acme/ner")
    done = api.upload_folder(repo_id="acme/ner", folder_path=first.path, commit_message="by a client")
    version = embedded.resolve("acme/ner")
    assert (version.number, version.digest, version.message) == (1, first.digest, "by a client")
    assert embedded.pull(f"acme/ner@{done.oid}").digest == first.digest
    embedded.push(second, "acme/ner", message="by hand", alias="prod")
    commits = api.list_repo_commits("acme/ner")
    assert [commit.title for commit in commits] == ["by hand", "by a client", "initial commit"]
    assert contents(
        Path(snapshot_download("acme/ner", revision="prod", endpoint=hub_server.url))
    ) == contents(second.path)
    for revision in ("v1", first.digest.removeprefix("sha256:"), done.oid[:10], done.oid):
        assert api.model_info("acme/ner", revision=revision).sha == done.oid, revision


def test_only_what_changed_is_uploaded(hub_server: HubServer, tmp_path: Path) -> None:
    api = hub_server.client()
    adapter = write_adapter(tmp_path / "made", card=CARD)
    api.create_repo("ada/ner")
    api.upload_folder(repo_id="ada/ner", folder_path=adapter.path)
    again = api.upload_folder(repo_id="ada/ner", folder_path=adapter.path)
    assert again.oid == api.model_info("ada/ner").sha
    (adapter.path / "README.md").write_text(CARD + "More.\n")
    api.upload_folder(repo_id="ada/ner", folder_path=adapter.path)
    assert [version.number for version in EmbeddedHub(hub_server.data).show("ada/ner").versions] == [2, 1]


def test_branches_tags_and_revisions_with_slashes(hub_server: HubServer, tmp_path: Path) -> None:
    api = hub_server.client()
    api.create_repo("ada/ner")
    api.create_branch("ada/ner", branch="feat/x")
    done = api.upload_file(
        path_or_fileobj=b"# draft", path_in_repo="docs/notes one.md", repo_id="ada/ner", revision="feat/x"
    )
    api.create_tag("ada/ner", tag="release-1", revision="feat/x", tag_message="ready")
    refs = api.list_repo_refs("ada/ner")
    assert {branch.name for branch in refs.branches} == {"main", "feat/x"}
    assert [(tag.name, tag.target_commit) for tag in refs.tags] == [("release-1", done.oid)]
    assert api.list_repo_files("ada/ner", revision="feat/x") == ["docs/notes one.md"]
    assert api.list_repo_files("ada/ner") == []
    assert [item.path for item in api.list_repo_tree("ada/ner", revision="release-1")] == ["docs"]
    (found,) = api.get_paths_info("ada/ner", ["docs/notes one.md", "none"], revision="feat/x", expand=True)
    assert found.last_commit is not None
    assert found.last_commit.oid == done.oid
    path = hf_hub_download("ada/ner", "docs/notes one.md", revision="feat/x", endpoint=hub_server.url)
    assert Path(path).read_bytes() == b"# draft"
    with pytest.raises(HfHubHTTPError, match="release-1 already"):
        api.create_branch("ada/ner", branch="release-1")
    api.create_branch("ada/ner", branch="feat/x", exist_ok=True)
    api.delete_tag("ada/ner", tag="release-1")
    api.delete_branch("ada/ner", branch="feat/x")
    assert [branch.name for branch in api.list_repo_refs("ada/ner").branches] == ["main"]


def test_errors_are_the_clients_own(hub_server: HubServer, tmp_path: Path) -> None:
    api = hub_server.client()
    assert not api.repo_exists("ada/ner")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("ada/ner")
    api.create_repo("ada/ner")
    assert api.repo_exists("ada/ner")
    assert str(api.create_repo("ada/ner", exist_ok=True)) == f"{hub_server.url}/ada/ner"
    with pytest.raises(HfHubHTTPError, match="already"):
        api.create_repo("ada/ner")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("ada/ner", revision="v7")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("ada/ner", "none.txt", endpoint=hub_server.url, cache_dir=tmp_path)
    assert not api.file_exists("ada/ner", "none.txt")
    with pytest.raises(HfHubHTTPError, match="not valid YAML|valid YAML"):
        api.create_commit(
            "ada/ner",
            [CommitOperationAdd("README.md", b"---\na: [\n---\n")],
            commit_message="broken",
        )


def test_a_commit_on_a_moved_parent_changes_nothing(hub_server: HubServer) -> None:
    api = hub_server.client()
    api.create_repo("ada/ner")
    start = api.model_info("ada/ner").sha
    first, again = (
        api.create_commit(
            "ada/ner", [CommitOperationAdd("a.txt", b"a")], commit_message="a", parent_commit=start
        )
        for _ in range(2)
    )
    assert again.oid == first.oid  # an answer that was lost
    with pytest.raises(HfHubHTTPError) as caught:
        api.create_commit(
            "ada/ner", [CommitOperationAdd("b.txt", b"b")], commit_message="b", parent_commit=start
        )
    assert caught.value.response.status_code == 409
    assert api.list_repo_files("ada/ner") == ["a.txt"]
    api.create_commit("ada/ner", [CommitOperationDelete("a.txt")], commit_message="gone")
    assert api.list_repo_files("ada/ner") == []


def test_settings_moves_and_deletion(hub_server: HubServer, tmp_path: Path) -> None:
    api, nobody = hub_server.client(), hub_server.client(None)
    adapter = write_adapter(tmp_path / "made", card=CARD)
    api.create_repo("ada/ner", private=True)
    api.upload_folder(repo_id="ada/ner", folder_path=adapter.path)
    with pytest.raises(RepositoryNotFoundError):
        nobody.model_info("ada/ner")
    with pytest.raises(RepositoryNotFoundError):
        hub_server.client("bob").model_info("ada/ner")
    assert list(nobody.list_models()) == []
    assert [model.id for model in api.list_models()] == ["ada/ner"]
    api.update_repo_settings("ada/ner", private=False)
    assert nobody.model_info("ada/ner").private is False
    api.move_repo("ada/ner", "ada/names")
    assert nobody.list_repo_files("ada/names") == sorted(adapter.files)
    assert [model.id for model in nobody.list_models(search="names")] == ["ada/names"]
    with pytest.raises(HfHubHTTPError) as caught:
        nobody.delete_repo("ada/names")
    assert caught.value.response.status_code == 401
    api.delete_repo("ada/names")
    assert not api.repo_exists("ada/names")


def test_lists_page_filter_and_search(hub_server: HubServer, tmp_path: Path) -> None:
    api = hub_server.client()
    for seed in range(5):
        adapter = write_adapter(
            tmp_path / str(seed), seed=seed, card=CARD if seed % 2 else "# Übersicht 影评"
        )
        EmbeddedHub(hub_server.data).push(adapter, f"acme/a{seed}")
    names = [f"acme/a{seed}" for seed in range(5)]
    assert [model.id for model in api.list_models(sort="last_modified")] == names[::-1]
    assert [model.id for model in api.list_models(limit=2)] == names[:2:-1]
    first = api.list_models(filter=["finance", "license:mit"])
    assert [model.id for model in first] == ["acme/a3", "acme/a1"]
    assert [model.id for model in api.list_models(search="übersicht A2")] == ["acme/a2"]
    assert [model.id for model in api.list_models(search="影评", author="acme")] == names[::-2]
    assert [model.id for model in api.list_models(author="nobody")] == []
    config = {"peft": {"base_model_name_or_path": adapter.base_ref, "task_type": "TOKEN_CLS"}}
    assert [model.config for model in api.list_models(fetch_config=True)] == [config] * 5
    assert [model.config for model in api.list_models(expand=["config"], author="acme")] == [config] * 5
    assert api.model_info(names[0]).config == config
    api.create_repo("acme/empty")
    assert api.model_info("acme/empty").config == {}
    assert [model.config for model in api.list_models(search="empty", fetch_config=True)] == [{}]
    assert [model.id for model in api.list_models(pipeline_tag="token-classification", full=True)] == names[
        ::-1
    ]


def test_whoami_and_tokens(hub_server: HubServer) -> None:
    assert hub_server.client(None).list_models() is not None
    api = hub_server.client("ada", "read")
    assert api.whoami()["name"] == "ada"
    assert api.whoami()["auth"]["accessToken"]["role"] == "read"
    with pytest.raises(HfHubHTTPError) as caught:
        api.create_repo("ada/ner")
    assert caught.value.response.status_code == 403
    with pytest.raises(HfHubHTTPError, match=r"401|Invalid user token"):
        api.whoami(token="ah_00000000_" + "x" * 43)


def test_the_file_system_reads_ranges(hub_server: HubServer) -> None:
    api = hub_server.client()
    api.create_repo("ada/ner")
    data = bytes(range(256)) * 8192
    api.upload_file(path_or_fileobj=data, path_in_repo="numbers.txt", repo_id="ada/ner")
    files = HfFileSystem(endpoint=hub_server.url, token=api.token)
    with files.open("ada/ner/numbers.txt", block_size=1000) as file:
        file.seek(1_000_000)
        assert file.read(300) == data[1_000_000:1_000_300]
