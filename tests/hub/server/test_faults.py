"""What goes wrong around a hub server: disks that are full, databases that go away, clients that are slow or all at once."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import HfHubHTTPError

from adapthub.adapters.files import sha256_bytes
from adapthub.hub.checking import check
from adapthub.hub.collecting import collect
from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.quotas import set_quota
from adapthub.hub.server.serving import Limits
from tests import asking
from tests.full_disks import full_beyond
from tests.hub.adapters import contents, write_adapter
from tests.hub.server.live import HubServer, live

LARGE = b"\0" * 2_000_000
OID = sha256_bytes(LARGE)
WAIT = 60  # seconds, for an answer: a machine that has much else to do takes longer than clients wait by themselves


def announced(server: HubServer, token: str, data: bytes) -> httpx2.Response:
    """What the hub says where bytes are about to come by LFS for ada/ner."""
    headers = {"Authorization": f"Bearer {token}"}
    body = {"operation": "upload", "objects": [{"oid": sha256_bytes(data), "size": len(data)}]}
    return asking.post(
        f"{server.url}/ada/ner.git/info/lfs/objects/batch", json=body, headers=headers, timeout=WAIT
    )


def put(server: HubServer, token: str, data: bytes = LARGE) -> httpx2.Response:
    """Upload bytes by LFS for ada/ner: the last answer."""
    answer = announced(server, token, data)
    if answer.status_code != 200:
        return answer
    (entry,) = answer.json()["objects"]
    if "actions" not in entry:
        return answer
    return asking.put(entry["actions"]["upload"]["href"], content=data, timeout=WAIT)


def commit(
    server: HubServer, token: str, files: dict[str, bytes], parent: str | None = None
) -> httpx2.Response:
    """Commit files to main of ada/ner; those that end in .safetensors were uploaded before."""
    lines: list[dict[str, Any]] = [{"key": "header", "value": {"summary": "a", "parentCommit": parent}}]
    for path, data in files.items():
        if path.endswith(".safetensors"):
            value = {"path": path, "algo": "sha256", "oid": sha256_bytes(data), "size": len(data)}
            lines.append({"key": "lfsFile", "value": value})
        else:
            lines.append({"key": "file", "value": {"path": path, "content": base64.b64encode(data).decode()}})
    body = "\n".join(map(json.dumps, lines)).encode()
    headers = {"Authorization": f"Bearer {token}"}
    url = f"{server.url}/api/models/ada/ner/commit/main"
    return asking.post(url, content=body, headers=headers, timeout=WAIT)


def test_a_disk_that_takes_no_more(hub_server: HubServer) -> None:
    hub_server.client().create_repo("ada/ner")
    token = hub_server.token()
    with full_beyond(1_000_000):
        answer = put(hub_server, token)
    assert (answer.status_code, "Check free space" in answer.json()["error"]) == (503, True)
    assert [path for path in (hub_server.data / "blobs").rglob("*") if path.is_file()] == []
    assert put(hub_server, token).status_code == 200
    assert check(hub_server.running.serving.store).whole


@pytest.mark.slow
def test_a_database_that_takes_no_more(hub_server: HubServer) -> None:
    """Its log grows beyond what the disk has in the middle of commits: each is whole or not there."""
    api = hub_server.client()
    api.create_repo("ada/ner")
    token = hub_server.token()
    log = hub_server.data / "hub.sqlite3-wal"
    done = []
    with full_beyond(log.stat().st_size + 60_000):
        for number in range(20):
            answer = commit(hub_server, token, {f"{number}.txt": b"x"})
            assert answer.status_code in (200, 503), answer.text
            done.append(answer.status_code == 200)
    assert False in done
    names = {f"{number}.txt" for number, there in enumerate(done) if there}
    assert set(api.list_repo_files("ada/ner")) == names
    assert commit(hub_server, token, {"after.txt": b"x"}).status_code == 200
    assert check(hub_server.running.serving.store).whole


@pytest.mark.slow
def test_a_database_that_goes_away_and_comes_back(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    postgres = request.getfixturevalue("new_database")
    adapter = write_adapter(tmp_path / "made")
    with live(tmp_path / "served", database=postgres()) as server:
        api = server.client()
        api.create_repo("ada/ner")
        api.upload_folder(repo_id="ada/ner", folder_path=adapter.path)
        token, url = server.token(), f"{server.url}/ada/ner/resolve/v1/adapter_config.json"
        assert asking.get(url).status_code == 200
        postgres.stop()
        try:
            for answer in (asking.get(url), put(server, token), commit(server, token, {"a.txt": b"a"})):
                assert (answer.status_code, "database" in answer.json()["error"]) == (503, True)
                assert "Traceback" not in answer.text
            assert asking.get(f"{server.url}/health").status_code == 200
        finally:
            postgres.start()
        assert asking.get(url).status_code == 200
        api.upload_folder(repo_id="ada/ner", folder_path=write_adapter(tmp_path / "next", seed=2).path)
        assert api.model_info("ada/ner", revision="v2").sha == api.model_info("ada/ner").sha
        assert check(server.running.serving.store).whole


DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)]


@pytest.fixture(params=DATABASES)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HubServer]:
    """A hub on each database."""
    url = None if request.param == "sqlite" else request.getfixturevalue("new_database")()
    with live(tmp_path / "served", database=url) as server:
        server.client().create_repo("ada/ner")
        yield server


def together(work: Callable[[int], Any], count: int) -> list[Any]:
    """What `work` of each number returned, all begun at once."""
    barrier = threading.Barrier(count)

    def one(number: int) -> Any:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_of_two_commits_on_one_parent_one_wins(server: HubServer) -> None:
    token = server.token()
    parent = server.client().model_info("ada/ner").sha
    answers = together(lambda n: commit(server, token, {f"{n}.txt": b"x"}, parent), 4)
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
    assert len(server.client().list_repo_files("ada/ner")) == 1


def test_commits_at_once_all_happen(server: HubServer) -> None:
    token = server.token()
    answers = together(lambda n: commit(server, token, {f"{n}.txt": b"x"}), 4)
    assert [answer.status_code for answer in answers] == [200] * 4
    assert server.client().list_repo_files("ada/ner") == [f"{n}.txt" for n in range(4)]


def test_two_pushes_to_one_alias(server: HubServer, tmp_path: Path) -> None:
    """Both are versions, both are told which, and the alias is where the last of them put it."""
    store = server.running.serving.store
    adapters = [write_adapter(tmp_path / str(seed), seed=seed) for seed in range(4)]

    def push(number: int) -> int:
        hub = EmbeddedHub(server.data, cache=tmp_path / f"cache-{number}")
        hub._store, hub._database = store, store.database
        return hub.push(adapters[number], "ada/ner", alias="prod").number

    numbers = together(push, 4)
    assert sorted(numbers) == [1, 2, 3, 4]
    hub = EmbeddedHub(server.data, cache=tmp_path / "cache")
    hub._store, hub._database = store, store.database
    (prod,) = hub.show("ada/ner").aliases
    assert [move.source for move in prod.history] == [None, *(move.target for move in prod.history)][:-1]
    assert prod.history[-1].target == prod.number
    for number, adapter in zip(numbers, adapters, strict=True):
        assert hub.resolve(f"ada/ner@v{number}").digest == adapter.digest
    assert check(store).whole


@pytest.mark.slow
def test_garbage_is_collected_while_clients_write(server: HubServer, tmp_path: Path) -> None:
    """With no grace at all, so that uploads are overtaken and refused, and come again: none is lost that was taken."""
    store = server.running.serving.store
    token = server.token()
    stop = threading.Event()
    collected: list[int] = []

    def collecting() -> None:
        while not stop.wait(0.3):  # or no upload would ever be in time
            collected.append(collect(store, grace=timedelta(0)).blobs)

    def taken(files: dict[str, bytes]) -> bool:
        weights = next(iter(files.values()))
        for _ in range(200):
            if put(server, token, weights).status_code == 200:
                answer = commit(server, token, files)
                if answer.status_code == 200:
                    return True
                assert answer.status_code in (400, 409, 422, 503), answer.text
        return False

    def write(number: int) -> int:
        """How many files, until there were some collections meanwhile."""
        written = 0
        while len(collected) < 3:
            assert collector.is_alive()
            folder, weights = f"{number}/{written}", bytes([number, *written.to_bytes(2)]) * 40_000
            assert taken({f"{folder}/model.safetensors": header(weights), f"{folder}/a.txt": folder.encode()})
            written += 2
        return written

    collector = threading.Thread(target=collecting)
    collector.start()
    try:
        written = together(write, 4)
    finally:
        stop.set()
        collector.join()
    assert len(server.client().list_repo_files("ada/ner")) == sum(written)
    report = check(store)
    assert report.whole, report.problems


def header(data: bytes) -> bytes:
    """A safetensors file of one tensor."""
    text = json.dumps({"a": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_a_quota_is_kept_before_bytes_are_taken(server: HubServer, tmp_path: Path) -> None:
    store = server.running.serving.store
    api, token = server.client(), server.token()
    with store.database.writing() as session:
        set_quota(session, "ada", 1_000_000)
    answer = put(server, token)
    assert (answer.status_code, "may hold 1,000,000" in answer.json()["error"]) == (403, True)
    with pytest.raises(HfHubHTTPError, match="may hold 1,000,000"):
        api.upload_file(path_or_fileobj=LARGE, path_in_repo="a.safetensors", repo_id="ada/ner")
    assert commit(server, token, {"a.txt": b"x" * 1_100_000}).status_code == 403
    assert store.blobs.size(OID) is None
    files = [bytes([n]) * 900_000 for n in (1, 2)]  # each by itself has room
    urls = [announced(server, token, one).json()["objects"][0]["actions"]["upload"]["href"] for one in files]
    sent = [asking.put(url, content=one).status_code for url, one in zip(urls, files, strict=True)]
    assert sent == [200, 403]
    assert store.blobs.size(sha256_bytes(files[1])) is None  # it was refused before it came
    collect(store, grace=timedelta(0))
    small = header(b"\0" * 600_000)
    assert put(server, token, small).status_code == 200
    assert put(server, token, header(b"\1" * 600_000)).status_code == 403
    assert commit(server, token, {"a.safetensors": small}).status_code == 200
    assert commit(server, token, {"b.safetensors": small}).status_code == 200  # each blob counts once
    eve = server.client("eve")
    eve.create_repo("shared/large")
    eve.upload_file(path_or_fileobj=header(b"\2" * 600_000), path_in_repo="a.dat", repo_id="shared/large")
    with pytest.raises(HfHubHTTPError, match="may hold 1,000,000"):
        server.client("ada").move_repo("shared/large", "ada/large")
    with store.database.writing() as session:
        set_quota(session, "ada", None)
    assert put(server, token).status_code == 200
    adapter = write_adapter(tmp_path / "made")
    server.client("bob").create_repo("bob/ner")
    operations = [CommitOperationAdd(name, data) for name, data in contents(adapter.path).items()]
    server.client("bob").create_commit("bob/ner", operations, commit_message="nobody else is counted")


def test_a_body_that_does_not_come(tmp_path: Path) -> None:
    """Its thread waits no longer: five such bodies of a kind leave fewer threads, of which the pool keeps some idle."""
    with live(tmp_path / "served", limits=Limits(body_seconds=0.5, body_rate=10**6)) as server:
        EmbeddedHub(server.data).push(write_adapter(tmp_path / "made"), "ada/ner")
        token, before = server.token(), threading.active_count()
        host, port = server.url.removeprefix("http://").split(":")
        head = f"POST /api/models/ada/ner/commit/main HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
        for length in 5 * ("Content-Length: 1000\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"):
            with socket.create_connection((host, int(port)), timeout=60) as connection:
                connection.sendall((head + length).encode())
                assert b" 408 " in connection.recv(65536)
        assert threading.active_count() <= before + 3
        assert put(server, token, b"x").status_code == 200


def test_bytes_that_the_hub_lost_are_its_own_failure(
    hub_server: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not the client's: it is told so, and whoever runs the hub is."""
    api = hub_server.client()
    api.create_repo("ada/ner")
    api.upload_folder(repo_id="ada/ner", folder_path=write_adapter(tmp_path / "made").path)
    headers = {"Authorization": f"Bearer {api.token}"}
    url = f"{hub_server.url}/ada/ner/resolve/main/adapter_config.json"
    sha256 = sha256_bytes(asking.get(url).content)
    lost = hub_server.data / "blobs" / sha256[:2] / sha256
    config = lost.read_bytes()
    lost.unlink()
    bundle = f"{hub_server.url}/api/models/ada/ner/versions/v1/bundle"
    for address in (url, bundle, f"{hub_server.url}/ada/ner/blob/main/adapter_config.json"):
        caplog.clear()
        answer = asking.get(address, headers=headers)
        assert (answer.status_code, sha256 in answer.text) == (500, True)
        assert [record.levelname for record in caplog.records if sha256 in record.getMessage()] == ["ERROR"]
    lost.write_bytes(config[:-1])
    assert asking.get(bundle, headers=headers).status_code == 500


def test_a_disk_that_takes_no_large_commit(hub_server: HubServer) -> None:
    hub_server.client().create_repo("ada/ner")
    token = hub_server.token()
    with full_beyond(1_000_000):
        answer = commit(hub_server, token, {"a.txt": b"x" * 2_000_000})
    assert (answer.status_code, "TMPDIR" in answer.json()["error"]) == (503, True)
    assert commit(hub_server, token, {"a.txt": b"x" * 2_000_000}).status_code == 200
