"""Hugging Face's client squashes a branch and deletes large files; versions stay whole."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError

from adapthub.hub.checking import check
from adapthub.hub.collecting import collect
from adapthub.hub.embedded import EmbeddedHub
from tests.hub.adapters import contents, write_adapter
from tests.hub.server.live import HubServer


def test_a_squashed_branch(hub_server: HubServer, tmp_path: Path) -> None:
    api = hub_server.client()
    api.create_repo("ada/ner")
    for seed in (1, 2):
        adapter = write_adapter(tmp_path / str(seed), seed=seed)
        api.upload_folder(repo_id="ada/ner", folder_path=adapter.path)
    api.upload_file(path_or_fileobj=b"# Notes", path_in_repo="NOTES.md", repo_id="ada/ner")
    files = api.list_repo_files("ada/ner")
    api.create_branch("ada/ner", branch="before")
    api.super_squash_history("ada/ner", commit_message="one")
    assert [commit.title for commit in api.list_repo_commits("ada/ner")] == ["one"]
    assert api.list_repo_files("ada/ner") == files
    assert len(api.list_repo_commits("ada/ner", revision="before")) == 4
    api.delete_branch("ada/ner", branch="before")
    api.super_squash_history("ada/ner", commit_message="again")
    assert [commit.title for commit in api.list_repo_commits("ada/ner")] == ["again"]
    hub = EmbeddedHub(hub_server.data, cache=tmp_path / "cache")
    for seed in (1, 2):
        assert contents(hub.pull(f"ada/ner@v{seed}").path) == contents(tmp_path / str(seed))
    assert check(hub_server.running.serving.store).whole
    with pytest.raises(RevisionNotFoundError):
        api.super_squash_history("ada/ner", branch="none")
    with pytest.raises(HfHubHTTPError, match="bob may not"):
        hub_server.client("bob").super_squash_history("ada/ner")


def test_large_files_deleted_for_good(hub_server: HubServer, tmp_path: Path) -> None:
    api = hub_server.client()
    api.create_repo("ada/notes")
    data = b"\0" * 1000
    api.upload_file(path_or_fileobj=data, path_in_repo="extra.dat", repo_id="ada/notes")
    api.upload_file(path_or_fileobj=b"# Notes", path_in_repo="NOTES.md", repo_id="ada/notes")
    (found,) = api.list_lfs_files("ada/notes")
    assert (found.filename, found.size, found.ref) == ("extra.dat", 1000, "main")
    api.permanently_delete_lfs_files("ada/notes", [found])
    assert api.list_repo_files("ada/notes") == ["NOTES.md"]
    assert list(api.list_lfs_files("ada/notes")) == []
    assert collect(hub_server.running.serving.store, grace=timedelta(0)).bytes == 1000
    api.upload_file(path_or_fileobj=data, path_in_repo="extra.dat", repo_id="ada/notes")  # sent again
    assert len(list(api.list_lfs_files("ada/notes"))) == 1


def test_a_version_keeps_its_files(hub_server: HubServer, tmp_path: Path) -> None:
    api = hub_server.client()
    api.create_repo("ada/ner")
    api.upload_folder(repo_id="ada/ner", folder_path=write_adapter(tmp_path / "made").path)
    with pytest.raises(HfHubHTTPError, match="versions do not change"):
        api.permanently_delete_lfs_files("ada/ner", api.list_lfs_files("ada/ner"))
    assert check(hub_server.running.serving.store).whole
