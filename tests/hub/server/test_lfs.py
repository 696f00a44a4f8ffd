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

from adapthub.adapters.files import sha256_bytes
from adapthub.hub.server.serving import Limits
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
    answer = httpx2.post(f"{server.url}/ada/ner.git/info/lfs/objects/batch", json=body, headers=headers)
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
    return httpx2.post(entry["actions"]["upload"]["href"], json={"oid": OID, "parts": parts})


def test_a_client_uploads_in_parts(server: HubServer, tmp_path: Path) -> None:
    path = tmp_path / "notes.dat"
    path.write_bytes(DATA)
    server.client().upload_file(path_or_fileobj=path, path_in_repo="notes.dat", repo_id="ada/ner")
    assert httpx2.get(f"{server.url}/ada/ner/resolve/main/notes.dat").content == DATA
    assert "actions" not in batch(server)  # it is there
    assert (
        server.data / "blobs" / sha256_bytes(part(1))[:2] / sha256_bytes(part(1))
    ).exists()  # it came in parts


def test_an_upload_goes_on_where_it_was_cut_off(server: HubServer) -> None:
    entry = batch(server)
    urls = parts_of(entry)
    assert len(urls) == 4
    etags = [httpx2.put(urls[0], content=part(1)).headers["etag"]]

    def cut_off() -> Iterator[bytes]:
        yield part(2)[:50_000]
        raise ConnectionError("the cable")

    with pytest.raises(ConnectionError):
        httpx2.put(urls[1], content=cut_off())
    assert complete(entry, etags).status_code == 400
    with live(server.data, limits=Limits(part_bytes=PART)) as other:  # of several that serve one hub
        later = [url.replace(server.url, other.url) for url in urls]
        etags += [httpx2.put(later[n - 1], content=part(n)).headers["etag"] for n in (2, 3, 4)]
    assert complete(entry, etags).status_code == 200
    assert server.running.serving.store.blobs.get(OID, origin="test") == DATA
    assert "actions" not in batch(server)


def test_parts_that_are_not_the_files(server: HubServer) -> None:
    entry = batch(server)
    urls = parts_of(entry)
    assert httpx2.put(urls[0], content=part(1) + b"x").status_code == 413
    assert httpx2.put(urls[0], content=part(1)[1:]).status_code == 400
    assert httpx2.put(urls[0].replace("/1?", "/2?"), content=part(1)).status_code == 403
    etags = [httpx2.put(url, content=part(n)).headers["etag"] for n, url in enumerate(urls, start=1)]
    other = httpx2.put(urls[0], content=part(2)).headers["etag"]
    assert complete(entry, [other, *etags[1:]]).status_code == 422  # another file's bytes
    assert complete(entry, [etags[1], etags[0], *etags[2:]]).status_code == 403
    assert complete(entry, etags[:3]).status_code == 400
    private = json.dumps([sha256_bytes(b"a private blob"), PART]).encode()
    stolen = ".".join([base64.urlsafe_b64encode(private).decode(), *etags[0].strip('"').split(".")[-2:]])
    assert complete(entry, [stolen, *etags[1:]]).status_code == 403
    assert server.running.serving.store.blobs.size(OID) is None
    assert complete(entry, etags).status_code == 200


def test_downloads(server: HubServer, tmp_path: Path) -> None:
    api = server.client()
    path = tmp_path / "notes.dat"
    path.write_bytes(DATA)
    api.upload_file(path_or_fileobj=path, path_in_repo="notes.dat", repo_id="ada/ner")
    entry = batch(server, "bob", "download")
    url = entry["actions"]["download"]["href"]
    assert httpx2.get(url).content == DATA
    assert httpx2.put(url, content=DATA).status_code == 403
    assert batch(server, "bob", "download", oid="0" * 64)["error"]["code"] == 404
    api.update_repo_settings("ada/ner", private=True)
    with pytest.raises(AssertionError, match="no repository"):
        batch(server, "bob", "download")
