"""Large files by LFS: in parts, resumed, downloaded; and nothing taken that was not announced."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd
from huggingface_hub.hf_api import RepoFile

from adapthub.adapters.files import sha256_bytes
from adapthub.hub import accounts, quotas, repos, uploads
from adapthub.hub.lookup import require_repo
from adapthub.hub.reference import Reference
from adapthub.hub.server import lfs_transfer_api
from adapthub.hub.server.serving import Limits
from adapthub.hub.trees import git_oid
from tests import asking
from tests.hub.server.live import HubServer, live

PART = 100_000
DATA = random.Random(3).randbytes(3 * PART + 17)
OID = sha256_bytes(DATA)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    """A hub that takes files of more than 100 kB in parts."""
    with live(tmp_path / "served", limits=Limits(part_bytes=PART)) as server:
        server.client().create_repo("ada/ner")
        yield server


def batch(server: HubServer, name: str = "ada", operation: str = "upload", **changes: Any) -> dict[str, Any]:
    """What the hub says to one file."""
    one = {"oid": OID, "size": len(DATA), **changes}
    body = {"operation": operation, "objects": [one], "transfers": ["basic", "multipart"]}
    headers = {"Authorization": f"Bearer {server.token(name)}"}
    answer = asking.post(f"{server.url}/ada/ner.git/info/lfs/objects/batch", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    (entry,) = answer.json()["objects"]
    return dict(entry)


def parts_of(entry: dict[str, Any]) -> list[str]:
    header = entry["actions"]["upload"]["header"]
    return [header[str(number)] for number in range(1, len(header))]


def part(number: int) -> bytes:
    return DATA[(number - 1) * PART : number * PART]


def complete(entry: dict[str, Any], etags: list[str]) -> httpx2.Response:
    parts = [{"partNumber": number, "etag": etag} for number, etag in enumerate(etags, start=1)]
    return asking.post(entry["actions"]["upload"]["href"], json={"oid": OID, "parts": parts})


def blob_path(server: HubServer, data: bytes) -> Path:
    sha256 = sha256_bytes(data)
    return server.data / "blobs" / sha256[:2] / sha256


def test_a_client_uploads_in_parts(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    came: list[int] = []
    monkeypatch.setattr(uploads, "expect_part", lambda *given: came.append(given[2]))
    path = tmp_path / "notes.dat"
    path.write_bytes(DATA)
    server.client().upload_file(path_or_fileobj=path, path_in_repo="notes.dat", repo_id="ada/ner")
    assert asking.get(f"{server.url}/ada/ner/resolve/main/notes.dat").content == DATA
    assert "actions" not in batch(server)  # it is there
    assert sorted(came) == [17, PART, PART, PART]
    assert not any(
        blob_path(server, part(number)).exists() for number in (1, 2, 3, 4)
    )  # they are in the file now


def test_an_upload_goes_on_where_it_was_cut_off(server: HubServer) -> None:
    entry = batch(server)
    urls = parts_of(entry)
    assert len(urls) == 4
    etags = [asking.put(urls[0], content=part(1)).headers["etag"]]

    def cut_off() -> Iterator[bytes]:
        yield part(2)[:50_000]
        raise ConnectionError("the cable")

    with pytest.raises(ConnectionError):
        asking.put(urls[1], content=cut_off())
    assert complete(entry, etags).status_code == 400
    with live(server.data, limits=Limits(part_bytes=PART)) as other:  # of several that serve one hub
        later = [url.replace(server.url, other.url) for url in urls]
        etags += [asking.put(later[n - 1], content=part(n)).headers["etag"] for n in (2, 3, 4)]
    assert complete(entry, etags).status_code == 200
    assert server.running.serving.store.blobs.get(OID, origin="test") == DATA
    assert "actions" not in batch(server)


def test_parts_that_are_not_the_files(server: HubServer) -> None:
    entry = batch(server)
    urls = parts_of(entry)
    assert asking.put(urls[0], content=part(1) + b"x").status_code == 413
    assert asking.put(urls[0], content=part(1)[1:]).status_code == 400
    assert asking.put(urls[0].replace("/1?", "/2?"), content=part(1)).status_code == 403
    etags = [asking.put(url, content=part(n)).headers["etag"] for n, url in enumerate(urls, start=1)]
    other = asking.put(urls[0], content=part(2)).headers["etag"]
    assert complete(entry, [other, *etags[1:]]).status_code == 422  # another file's bytes
    assert complete(entry, [etags[1], etags[0], *etags[2:]]).status_code == 403
    assert complete(entry, etags[:3]).status_code == 400
    private = json.dumps([sha256_bytes(b"a private blob"), PART]).encode()
    stolen = ".".join([base64.urlsafe_b64encode(private).decode(), *etags[0].strip('"').split(".")[-2:]])
    assert complete(entry, [stolen, *etags[1:]]).status_code == 403
    assert server.running.serving.store.blobs.size(OID) is None
    assert asking.put(urls[0], content=part(1)).headers["etag"] != other
    assert complete(entry, etags).status_code == 200


def test_downloads(server: HubServer, tmp_path: Path) -> None:
    api = server.client()
    path = tmp_path / "notes.dat"
    path.write_bytes(DATA)
    api.upload_file(path_or_fileobj=path, path_in_repo="notes.dat", repo_id="ada/ner")
    entry = batch(server, "bob", "download")
    url = entry["actions"]["download"]["href"]
    assert asking.get(url).content == DATA
    assert asking.put(url, content=DATA).status_code == 403
    assert batch(server, "bob", "download", oid="0" * 64)["error"]["code"] == 404
    api.update_repo_settings("ada/ner", private=True)
    with pytest.raises(AssertionError, match="no repository"):
        batch(server, "bob", "download")


def test_parts_count_until_the_file_is_whole(server: HubServer) -> None:
    store = server.running.serving.store

    def used() -> int:
        with store.database.reading() as session:
            return quotas.used(session, "ada")

    with store.database.writing() as session:
        quotas.set_quota(session, "ada", len(DATA))
    entry = batch(server)
    urls = parts_of(entry)
    etags = [asking.put(url, content=part(n)).headers["etag"] for n, url in enumerate(urls, start=1)]
    assert used() == len(DATA)
    with pytest.raises(AssertionError, match="may hold"):
        batch(server, oid=sha256_bytes(b"other"), size=5)
    assert [complete(entry, etags).status_code for _ in range(2)] == [200, 200]  # the first answer was lost
    assert used() == len(DATA)
    assert store.blobs.get(OID, origin="test") == DATA


def test_a_part_that_comes_again_takes_the_place_of_the_one_before(server: HubServer) -> None:
    """Its address took any number of others, and all of them counted."""
    store = server.running.serving.store
    with store.database.writing() as session:
        quotas.set_quota(session, "ada", len(DATA))
    entry = batch(server)
    urls = parts_of(entry)
    for n, url in enumerate(urls, start=1):
        assert asking.put(url, content=part(n)[::-1]).status_code == 200
    first = [asking.put(url, content=part(n)).headers["etag"] for n, url in enumerate(urls, start=1)]
    again = [asking.put(url, content=part(n)).headers["etag"] for n, url in enumerate(urls, start=1)]
    with store.database.reading() as session:
        assert quotas.used(session, "ada") == len(DATA)
    assert not any(blob_path(server, part(n)[::-1]).exists() for n in (1, 2, 3, 4))
    other = asking.put(urls[1], content=part(2)[::-1]).headers["etag"]
    refused = complete(entry, first)
    assert (refused.status_code, "part 2 is not kept" in refused.text) == (400, True)
    assert complete(entry, [again[0], other, *again[2:]]).status_code == 422
    second = asking.put(urls[1], content=part(2)).headers["etag"]
    assert complete(entry, [first[0], second, *first[2:]]).status_code == 200
    assert store.blobs.get(OID, origin="test") == DATA


@pytest.mark.parametrize("looking", [True, False], ids=["looks for them", "reads them"])
def test_of_two_completions_at_once_both_are_answered(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, looking: bool
) -> None:
    """The other takes the parts away while the first one looks for them, or reads them."""
    entry = batch(server)
    etags = [
        asking.put(url, content=part(n)).headers["etag"] for n, url in enumerate(parts_of(entry), start=1)
    ]
    blobs = server.running.serving.store.blobs
    real, raced = blobs.pieces, list[str]()

    def pieces(sha256: str) -> Iterator[bytes]:
        raced.append(sha256)
        if len(raced) == 1:
            # Not on one of the threads that all other requests are answered on.
            assert server.running.serving.large_files.borrowed_tokens == 1
            assert complete(entry, etags).status_code == 200
        return real(sha256)

    is_done = lfs_transfer_api._is_done

    def asked(*arguments: Any) -> bool:
        done = is_done(*arguments)
        if not raced:
            raced.append("looking")
            assert complete(entry, etags).status_code == 200
        return done

    if looking:
        monkeypatch.setattr(lfs_transfer_api, "_is_done", asked)
    else:
        monkeypatch.setattr(blobs, "pieces", pieces)
    assert complete(entry, etags).status_code == 200
    assert raced


def test_equal_parts_are_each_there(server: HubServer) -> None:
    """One that is replaced leaves the other: they are the same bytes."""
    data = bytes(2 * PART)
    entry = batch(server, oid=sha256_bytes(data), size=len(data))
    urls = parts_of(entry)
    receipts = [asking.put(url, content=bytes(PART)).headers["etag"] for url in urls]
    asking.put(urls[0], content=part(1))
    receipts[0] = asking.put(urls[0], content=bytes(PART)).headers["etag"]
    parts = [{"partNumber": number, "etag": etag} for number, etag in enumerate(receipts, start=1)]
    answer = asking.post(entry["actions"]["upload"]["href"], json={"oid": sha256_bytes(data), "parts": parts})
    assert answer.status_code == 200
    assert server.running.serving.store.blobs.get(sha256_bytes(data), origin="test") == data


def test_files_that_share_a_part_are_each_whole(server: HubServer, tmp_path: Path) -> None:
    """The first to be complete takes the place of its own parts alone, not of what came for others too."""
    files = [part(1) + part(2), part(1) + part(3), bytes(2 * PART)]
    entries = [batch(server, oid=sha256_bytes(data), size=len(data)) for data in files]
    receipts = [
        [
            asking.put(url, content=data[n * PART : (n + 1) * PART]).headers["etag"]
            for n, url in enumerate(parts_of(entry))
        ]
        for entry, data in zip(entries, files, strict=True)
    ]
    path = tmp_path / "part.dat"
    path.write_bytes(part(2))
    whole = CommitOperationAdd("part.dat", path)
    server.client().preupload_lfs_files("ada/ner", [whole], free_memory=False)  # to be committed
    for entry, etags, data in zip(entries, receipts, files, strict=True):
        parts = [{"partNumber": number, "etag": etag} for number, etag in enumerate(etags, start=1)]
        answer = asking.post(
            entry["actions"]["upload"]["href"], json={"oid": sha256_bytes(data), "parts": parts}
        )
        assert answer.status_code == 200, answer.text
        assert server.running.serving.store.blobs.get(sha256_bytes(data), origin="test") == data
    server.client().create_commit("ada/ner", [whole], commit_message="it is there")
    assert not blob_path(server, part(3)).exists()
    assert not blob_path(server, bytes(PART)).exists()  # twice in one file alone


def test_a_file_comes_again_where_there_is_no_more_room(server: HubServer) -> None:
    """As when the answer was lost: it counts once."""
    data = part(1)[1:]
    with server.running.serving.store.database.writing() as session:
        quotas.set_quota(session, "ada", len(data))
    url = batch(server, oid=sha256_bytes(data), size=len(data))["actions"]["upload"]["href"]
    assert [asking.put(url, content=data).status_code for _ in range(2)] == [200, 200]


def test_a_part_that_is_a_file_stays(server: HubServer, tmp_path: Path) -> None:
    path = tmp_path / "part.dat"
    path.write_bytes(part(1))
    entry = batch(server)
    etags = [
        asking.put(url, content=part(n)).headers["etag"] for n, url in enumerate(parts_of(entry), start=1)
    ]
    server.client().upload_file(path_or_fileobj=path, path_in_repo="part.dat", repo_id="ada/ner")
    server.client("eve").create_repo("eve/ner")
    path.write_bytes(part(2))
    server.client("eve").preupload_lfs_files(
        "eve/ner", [CommitOperationAdd("part.dat", path)]
    )  # to be committed
    assert complete(entry, etags).status_code == 200
    assert [blob_path(server, part(n)).exists() for n in (1, 2, 3, 4)] == [True, True, False, False]


def test_addresses_end_with_the_token_that_asked_for_them(server: HubServer) -> None:
    """Clients send no token to them: they name it."""
    store = server.running.serving.store
    whole, entry = batch(server, oid=sha256_bytes(b"whole"), size=5), batch(server)
    url = whole["actions"]["upload"]["href"]
    etags = [
        asking.put(one, content=part(n)).headers["etag"] for n, one in enumerate(parts_of(entry), start=1)
    ]
    with store.database.writing() as session:
        for token in accounts.list_tokens(session, "ada"):
            accounts.revoke_token(session, token.prefix)
    assert asking.put(url, content=b"whole").status_code == 401
    assert asking.put(parts_of(entry)[0], content=part(1)).status_code == 401
    assert complete(entry, etags).status_code == 401
    with store.database.reading() as session:
        repo = require_repo(session, Reference.parse("ada/ner"))
        assert uploads.held(session, repo, [OID, sha256_bytes(b"whole")]) == {}


def test_a_name_that_is_gone_is_answered_without_others(server: HubServer) -> None:
    """Who may not see all is told of none that is like it."""
    store = server.running.serving.store
    server.client().create_repo("eve/ner-falcon", private=True)
    url = batch(server, oid=sha256_bytes(b"whole"), size=5)["actions"]["upload"]["href"]
    with store.database.writing() as session:
        repos.remove(session, require_repo(session, Reference.parse("ada/ner")))
    answer = asking.put(url, content=b"whole")
    assert (answer.status_code, "falcon" in answer.text) == (404, False)


def test_how_somebody_else_sent_the_same_bytes_is_not_told(server: HubServer, tmp_path: Path) -> None:
    """A file is of LFS where it was sent so, whoever else has these bytes: else it would say that they do."""
    secret = b"password: hunter2\n"
    entry = batch(server, oid=sha256_bytes(secret), size=len(secret))
    assert asking.put(entry["actions"]["upload"]["href"], content=secret).status_code == 200
    large = {"path": "secret.txt", "algo": "sha256", "oid": sha256_bytes(secret), "size": len(secret)}
    lines = [{"key": "header", "value": {"summary": "a"}}, {"key": "lfsFile", "value": large}]
    url, headers = f"{server.url}/api/models/ada/ner", {"Authorization": f"Bearer {server.token()}"}
    body = "\n".join(map(json.dumps, lines))
    assert asking.post(f"{url}/commit/main", content=body, headers=headers).status_code == 200
    eve = server.client("eve")
    eve.create_repo("eve/ner")
    eve.upload_file(path_or_fileobj=secret, path_in_repo="guess.txt", repo_id="eve/ner")
    for name, path, etag in (
        ("eve/ner", "guess.txt", git_oid(secret)),
        ("ada/ner", "secret.txt", sha256_bytes(secret)),
    ):
        (info,) = eve.get_paths_info(name, path)
        assert isinstance(info, RepoFile)
        assert (info.lfs is None) == (name == "eve/ner")
        found = asking.head(f"{server.url}/{name}/resolve/main/{path}").headers["etag"]
        assert found.strip('"') == etag
