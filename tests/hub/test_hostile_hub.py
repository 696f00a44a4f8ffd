"""What a hub may answer to our client: nothing of it fills memory or disk, or reaches a user as a defect of ours."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx2
import pytest

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.description import digest_of
from adapthub.adapters.errors import AdaptHubError, AdmissionError, IntegrityError, StorageError
from adapthub.hub import connection
from adapthub.hub.connection import Connection
from adapthub.hub.known_hubs import known_hubs, remember_hub
from adapthub.hub.remote import RemoteHub
from adapthub.hub.trees import git_oid
from adapthub.hub.wire import PROTOCOL
from tests.hub.adapters import write_adapter

HUB = "http://hub.example"
COMMIT, OLD = "a" * 40, "e" * 40
FILES = {
    name: sha256(name.encode()).hexdigest() for name in ("adapter_config.json", "adapter_model.safetensors")
}
DIGEST = digest_of(FILES)
Answer = Callable[[httpx2.Request], httpx2.Response]


def open_remote(folder: Path, answer: Answer) -> RemoteHub:
    transport = httpx2.MockTransport(answer)
    return RemoteHub(Connection(HUB, transport=transport, sleep=lambda _: None), cache=folder / "cache")


def own(**answers: httpx2.Response) -> Answer:
    """A hub of ours: an answer by the last part of the address, which is no path of a repository."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/api/adapthub":
            return httpx2.Response(200, json={"hub": "adapthub", "protocol": PROTOCOL})
        return answers.get(request.url.path.rpartition("/")[2], httpx2.Response(404, json={"error": "no"}))

    return answer


def plain(answers: dict[str, Any]) -> Answer:
    """A hub of the plain protocol: JSON, or a text that is none, by the end of the address."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        for end, body in answers.items():
            if request.url.path.endswith(end):
                return httpx2.Response(200, text=body if isinstance(body, str) else json.dumps(body))
        return httpx2.Response(404, json={"error": "no"})

    return answer


def sparse_bundle(size: int) -> bytes:
    """A tar of 1.5 kB with a file of so many bytes, all of them a hole."""
    member = tarfile.TarInfo("adapter_config.json")
    member.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[386:398], header[398:410] = b"%011o\0" % size, b"%011o\0" % 0
    header[483:495] = b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    return bytes(header) + bytes(1024)


def linked_bundle() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as bundle:
        member = tarfile.TarInfo("adapter_config.json")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        bundle.addfile(member)
    return data.getvalue()


@pytest.mark.parametrize("bundle", [sparse_bundle(2**40), linked_bundle(), b"x" * 3000, b""])
def test_a_bundle_is_plain_files(tmp_path: Path, bundle: bytes) -> None:
    headers = {"x-adapthub-digest": DIGEST, "x-adapthub-size": "100"}
    hub = open_remote(tmp_path, own(bundle=httpx2.Response(200, content=bundle, headers=headers)))
    with pytest.raises(IntegrityError):
        hub.pull("a/b")


class Endless(httpx2.SyncByteStream):
    """Bytes without an end, which nobody may ask for."""

    def __iter__(self) -> Iterator[bytes]:
        raise AssertionError("a file that is too large was asked for")


def test_a_file_that_is_too_large_is_not_asked_for(tmp_path: Path) -> None:
    files = [{"path": path, "sha256": digest, "size": 10**13} for path, digest in FILES.items()]
    headers = {"x-adapthub-digest": DIGEST, "x-adapthub-size": str(10**13)}
    answer = own(
        bundle=httpx2.Response(204, headers=headers),
        files=httpx2.Response(200, json=files),
        **{path: httpx2.Response(200, stream=Endless()) for path in FILES},
    )
    with pytest.raises(AdmissionError, match=r"adapter_config\.json has 10000000000000 bytes"):
        open_remote(tmp_path, answer).pull("a/b")


def test_an_answer_is_bounded_when_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MOST_BYTES", 2**20)
    packed = gzip.compress(b" " * 2**22)
    headers = {"content-encoding": "gzip"}
    hub = open_remote(tmp_path, own(latest=httpx2.Response(200, content=packed, headers=headers)))
    with pytest.raises(StorageError, match="more than 1,048,576 bytes"):
        hub.resolve("a/b")


FILE: dict[str, Any] = {"type": "file", "path": "adapter_config.json", "size": 2, "oid": "b" * 40}
WEIGHTS: dict[str, Any] = {
    "type": "file",
    "path": "adapter_model.safetensors",
    "size": 2,
    "oid": "c" * 40,
    "lfs": {"oid": "d" * 64, "size": 5},
}
INFO: dict[str, Any] = {"sha": COMMIT, "lastModified": "2020-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    "answers",
    [
        {"/api/models": "<html>", "/a/b": "<html>"},
        {"/api/models": ["x"], "/a/b": ["x"]},
        {"/api/models": [{"id": 3}], "/a/b": {"sha": COMMIT}},
        {
            "/api/models": [{"id": "a/b", "lastModified": "soon"}],
            "/a/b": {"sha": "../../x", "lastModified": "soon"},
        },
        {"/api/models": {"a": 1}, "/a/b": INFO, f"/tree/{COMMIT}": {}},
        {"/api/models": [{"id": "a/b", "tags": 3}], "/a/b": INFO, f"/tree/{COMMIT}": [{**FILE, "oid": "x"}]},
        {"/api/models": 3, "/a/b": INFO, f"/tree/{COMMIT}": [{**FILE, "size": -1}, WEIGHTS]},
        {"/api/models": None, "/a/b": INFO, f"/tree/{COMMIT}": [FILE, {**WEIGHTS, "lfs": {"oid": "d"}}]},
        {"/api/models": [[]], "/a/b": INFO, f"/tree/{COMMIT}": [FILE, WEIGHTS], "/commits/main": [{}]},
        {"/api/models": "[", "/a/b": INFO, f"/tree/{COMMIT}": [FILE, WEIGHTS], "/commits/main": {}},
    ],
)
def test_answers_that_are_off_are_the_hubs_errors(tmp_path: Path, answers: dict[str, Any]) -> None:
    hub = open_remote(tmp_path, plain({**answers, "/refs": []}))
    with pytest.raises(AdaptHubError, match="understands"):
        hub.list()
    for call in (hub.resolve, hub.pull, hub.show, lambda ref: hub.promote(ref, "prod")):
        with pytest.raises(AdaptHubError):
            call("a/b")


def test_an_old_commit_that_is_not_admitted_is_no_version(tmp_path: Path) -> None:
    large = {"type": "file", "path": "data.jsonl", "size": 1, "oid": "f" * 40}
    answers: dict[str, Any] = {
        "/a/b": INFO,
        f"/tree/{COMMIT}": [FILE, WEIGHTS],
        f"/tree/{OLD}": [FILE, WEIGHTS, {**large, "lfs": {"oid": "1" * 64, "size": 2**40}}],
        "/commits/main": [
            {"id": COMMIT, "date": INFO["lastModified"]},
            {"id": OLD, "date": INFO["lastModified"]},
        ],
    }
    content = b"{}"
    oid = git_oid(content)
    answers[f"/tree/{COMMIT}"] = [{**FILE, "oid": oid}, WEIGHTS]
    answers["/adapter_config.json"] = content.decode()
    assert open_remote(tmp_path, plain(answers)).resolve("a/b").number == 1


@pytest.mark.parametrize("status", [502, 503, 504])
def test_behind_a_proxy_whose_hub_is_down_it_is_what_it_was(tmp_path: Path, status: int) -> None:
    artifact = write_adapter(tmp_path / "made")
    up = [True]

    def answer(request: httpx2.Request) -> httpx2.Response:
        return bundled(artifact)(request) if up[0] else httpx2.Response(status, text="<html>nginx</html>")

    hub = open_remote(tmp_path, answer)
    assert hub.pull("a/b").digest == artifact.digest
    up[0] = False
    assert hub.pull("a/b").digest == artifact.digest
    with pytest.raises(StorageError, match="does not answer"):
        hub.pull("a/other")


def bundled(artifact: Artifact) -> Answer:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as bundle:
        lines = "".join(f"{record.sha256}  {path}\n" for path, record in artifact.files.items())
        contents = {"SHA256SUMS": lines.encode()} | {
            path: (artifact.path / path).read_bytes() for path in artifact.files
        }
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            bundle.addfile(member, io.BytesIO(content))
    headers = {"x-adapthub-digest": artifact.digest, "x-adapthub-size": "100"}
    return lambda request: own(bundle=httpx2.Response(200, content=data.getvalue(), headers=headers))(request)


def test_logins_at_once_are_all_kept(own_home: Path) -> None:
    names = [f"hub{number}" for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        for done in [pool.submit(remember_hub, f"http://{name}.example", "ah_x", name) for name in names]:
            done.result()
    assert {*known_hubs()} == {*names}
