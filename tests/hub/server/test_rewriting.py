"""Hugging Face's client squashes a branch and deletes large files; versions stay whole."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError
from sqlalchemy import false, func, insert, select
from sqlalchemy.exc import IntegrityError

from adapthub.adapters.files import sha256_bytes
from adapthub.hub import collecting, webhooks
from adapthub.hub.backups import backup, restore
from adapthub.hub.checking import check
from adapthub.hub.collecting import collect
from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.signing import sign
from adapthub.hub.storage.tables import CommitRow
from adapthub.hub.store import Store
from tests.hub.adapters import contents, write_adapter
from tests.hub.server.governed import Api
from tests.hub.server.live import HubServer

KEY = ec.generate_private_key(ec.SECP256R1())
NOW = timedelta(0)


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


def deletion(*sha256s: str) -> dict[str, object]:
    return {"deletions": {"sha": list(sha256s), "rewriteHistory": True}}


def test_a_signature_is_a_versions_like_its_files(hub_server: HubServer, tmp_path: Path) -> None:
    """Whatever is rewritten, collected and restored: it stays, and nothing points at what has gone."""
    store, ada = hub_server.running.serving.store, Api(hub_server, "ada")
    hub = EmbeddedHub(hub_server.data, cache=tmp_path / "cache")
    artifacts = [write_adapter(tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    bundles = [sign(artifact.sha256s, KEY) for artifact in (artifacts[0], *artifacts)]
    hub.push(artifacts[0], "ada/ner")
    hub.attach_signature("ada/ner@v1", bundles[0])
    hub.attach_signature("ada/ner@v1", bundles[1])  # another of the same files: the newest counts
    hub.push(artifacts[1], "ada/ner")
    hub.attach_signature("ada/ner@v2", bundles[2])
    sha256s = [sha256_bytes(bundle) for bundle in bundles]
    for sha256 in sha256s[1:]:
        said = ada.refused("POST", "/api/models/ada/ner/lfs-files/batch", deletion(sha256), 409)
        assert "versions do not change" in said
    assert ada.raw("POST", "/api/models/ada/ner/super-squash/main", json={"message": "one"}).is_success
    batch = ("POST", "/api/models/ada/ner/lfs-files/batch")
    assert ada.raw(*batch, json=deletion(sha256s[0])).is_success  # it counts no longer
    assert ada.raw("POST", "/api/models/ada/ner/super-squash/main", json={"message": "again"}).is_success
    collect(store, grace=NOW)
    backup(store, tmp_path / "saved")
    restored = Store.open(tmp_path / "restored")
    restore(restored, tmp_path / "saved")
    for root, where in ((hub_server.data, store), (tmp_path / "restored", restored)):
        assert check(where).whole
        hub = EmbeddedHub(root, cache=root.with_suffix(".cache"))
        assert [hub.pull(f"ada/ner@v{n}").signature for n in (1, 2)] == bundles[1:]
        assert (collect(where, grace=NOW).blobs, check(where).whole) == (0, True)
    assert store.blobs.size(sha256s[0]) is None


def test_a_rewritten_history_is_recorded_and_told(hub_server: HubServer, tmp_path: Path) -> None:
    ada, root = Api(hub_server, "ada"), Api(hub_server, "root", "admin")
    api = hub_server.client("ada")
    api.create_repo("ada/notes")
    api.upload_file(path_or_fileobj=b"\0" * 1000, path_in_repo="extra.dat", repo_id="ada/notes")
    sha256 = sha256_bytes(b"\0" * 1000)
    with hub_server.running.serving.store.database.writing() as session:
        hook, _ = webhooks.add(session, "ada", "https://ci.example.com/", events=["history.rewritten"])
    for body in (deletion(sha256), deletion(sha256)):  # the second finds nothing to do
        assert ada.raw("POST", "/api/models/ada/notes/lfs-files/batch", json=body).is_success
    assert ada.raw("POST", "/api/models/ada/notes/super-squash/main", json={"message": "one"}).is_success
    squashed, deleted = root("GET", "/api/audit?repo=ada/notes&action=history.rewritten")
    assert (squashed["actor"], squashed["token"]) == ("ada", ada.token[:11])
    commit = api.model_info("ada/notes").sha
    assert squashed["detail"] == {"branch": "main", "commit": commit}
    assert deleted["detail"] == {"files": [sha256]}
    with hub_server.running.serving.store.database.reading() as session:
        told = webhooks.deliveries(session, webhooks.require(session, hook.id))
        assert [one.type for one in told] == ["history.rewritten"] * 2


@pytest.mark.slow
def test_a_long_history_is_squashed(hub_server: HubServer) -> None:
    """One of more commits than a statement of SQLite's has places."""
    api, store = hub_server.client(), hub_server.running.serving.store
    api.create_repo("ada/notes")
    with store.database.writing() as session:
        first = session.scalars(select(CommitRow)).one()
        rows = [
            {
                "repo_id": first.repo_id,
                "oid": f"{n:040x}",
                "parent_id": first.id,
                "message": "",
                "created": first.created,
            }
            for n in range(260_000)
        ]
        session.execute(insert(CommitRow), rows)
    api.super_squash_history("ada/notes", commit_message="one")
    with store.database.reading() as session:
        assert session.scalar(select(func.count()).select_from(CommitRow)) == 1


def test_bytes_go_after_all_that_refers_to_them(
    hub_server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collection that is wrong about what is garbage fails before anything is lost."""
    store = hub_server.running.serving.store
    EmbeddedHub(hub_server.data).push(write_adapter(tmp_path / "made"), "ada/ner")
    monkeypatch.setattr(collecting, "_named", false)
    with pytest.raises(IntegrityError):
        collect(store, grace=NOW)
    assert check(store).whole
