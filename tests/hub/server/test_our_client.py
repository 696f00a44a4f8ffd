"""Our client against a real server of ours: cuts, damage, who may do what, and where the token goes."""

from __future__ import annotations

import base64
import random
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import func, select

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.description import digest_of
from adapthub.adapters.errors import (
    AdapterNotFound,
    AdaptHubError,
    AdmissionError,
    Conflict,
    Forbidden,
    IntegrityError,
    SignatureError,
    StorageError,
    Unauthorized,
    Unreachable,
)
from adapthub.adapters.files import sha256_bytes
from adapthub.hub import audit, gates, quotas
from adapthub.hub.collecting import collect
from adapthub.hub.connection import Connection
from adapthub.hub.downloading import Wanted
from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.lineage import parent_of
from adapthub.hub.mirroring import mirror
from adapthub.hub.own_hub import OwnHub
from adapthub.hub.plain_hub import PlainHub
from adapthub.hub.reference import Reference
from adapthub.hub.remote import RemoteHub
from adapthub.hub.server import lfs_api
from adapthub.hub.signing import sign
from adapthub.hub.storage.upkeep_tables import PendingRow
from adapthub.hub.store import Store
from tests import asking
from tests.hub.adapters import contents, manifest, write_adapter
from tests.hub.server.live import HubServer

KEY = ec.generate_private_key(ec.SECP256R1())
LARGE = 300_000  # of write_adapter's width: 4.8 MB, more than a bundle brings


class Network(httpx2.HTTPTransport):
    """The network. `spoil` gets each answer to a GET and may give another; `asked`: every request."""

    def __init__(self) -> None:
        super().__init__(verify=asking.CERTIFICATES)
        self.asked: list[httpx2.Request] = []
        self.spoil: Callable[[httpx2.Request, httpx2.Response], httpx2.Response] = lambda _, answer: answer

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request)
        answer = super().handle_request(request)
        return self.spoil(request, answer) if request.method == "GET" else answer

    @property
    def paths(self) -> list[str]:
        return [f"{request.method} {request.url.path}" for request in self.asked]


class Cut(httpx2.SyncByteStream):
    """The first `length` bytes of an answer, and then the connection is gone."""

    def __init__(self, answer: httpx2.Response, length: int) -> None:
        self._answer, self._left = answer, length

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._answer.stream:  # type: ignore[union-attr]
            if len(piece) >= self._left:
                yield piece[: self._left]
                raise httpx2.ReadError("the connection was cut")
            self._left -= len(piece)
            yield piece

    def close(self) -> None:
        self._answer.close()


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def hub(hub_server: HubServer, network: Network, tmp_path: Path) -> RemoteHub:
    """The server as ada sees it, who may write."""
    return open_as(hub_server, hub_server.token(), tmp_path / "cache", network)


def open_as(server: HubServer, token: str | None, cache: Path, network: Network | None = None) -> RemoteHub:
    connection = Connection(server.url, token, transport=network, sleep=lambda _: None)
    return RemoteHub(connection, cache=cache)


# pull


def test_a_small_adapter_comes_in_one_request(hub: RemoteHub, network: Network, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "made", card="# A card")
    hub.push(adapter, "ada/ner")
    network.asked.clear()
    assert contents(hub.pull("ada/ner").path) == contents(adapter.path)
    assert network.paths == ["GET /api/models/ada/ner/versions/latest/bundle"]
    network.spoil = lambda _, answer: pytest.fail("sent again") if answer.status_code == 200 else answer
    assert hub.pull("ada/ner").digest == adapter.digest  # 304
    network.asked.clear()
    assert hub.pull(f"ada/ner@{adapter.digest}").digest == adapter.digest
    assert network.paths == []


def test_plain_tools_verify_a_bundle(hub_server: HubServer, hub: RemoteHub, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "made", card="# A card")
    hub.push(adapter, "ada/ner", alias="prod")
    answer = asking.get(f"{hub_server.url}/api/models/ada/ner/versions/prod/bundle")
    (tmp_path / "got").mkdir()
    for command in (["tar", "-x"], ["sha256sum", "--check", "--strict", "SHA256SUMS"]):
        subprocess.run(command, cwd=tmp_path / "got", input=answer.content, check=True, capture_output=True)
    sums = (tmp_path / "got" / "SHA256SUMS").read_bytes()
    assert f"sha256:{sha256_bytes(sums)}" == adapter.digest
    assert {path.name for path in (tmp_path / "got").iterdir()} == {"SHA256SUMS", *adapter.files}


def test_a_small_adapter_that_is_cut_off_is_asked_for_again(
    hub: RemoteHub, network: Network, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "made")
    hub.push(adapter, "ada/ner")
    cuts = [100, 2000]

    def spoil(_: httpx2.Request, answer: httpx2.Response) -> httpx2.Response:
        return (
            httpx2.Response(200, headers=answer.headers, stream=Cut(answer, cuts.pop(0))) if cuts else answer
        )

    network.spoil = spoil
    assert contents(hub.pull("ada/ner").path) == contents(adapter.path)
    assert cuts == []


def test_a_damaged_cache_is_mended(hub: RemoteHub, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "made")
    hub.push(adapter, "ada/ner")
    (hub.pull("ada/ner").path / "adapter_config.json").write_text("{}")
    assert contents(hub.pull("ada/ner").path) == contents(adapter.path)


@pytest.mark.parametrize("another_process", [False, True])
def test_a_large_file_is_gone_on_with_after_a_cut(
    hub_server: HubServer, hub: RemoteHub, network: Network, tmp_path: Path, another_process: bool
) -> None:
    adapter = write_adapter(tmp_path / "made", width=LARGE)
    hub.push(adapter, "ada/big")
    cuts = [1_000_000, 0, 0, 0, 0] if another_process else [1_000_000, 2_000_000]
    network.asked.clear()

    def spoil(request: httpx2.Request, answer: httpx2.Response) -> httpx2.Response:
        if request.url.path.endswith(".safetensors") and cuts:
            return httpx2.Response(
                answer.status_code, headers=answer.headers, stream=Cut(answer, cuts.pop(0))
            )
        return answer

    network.spoil = spoil
    if another_process:
        with pytest.raises(Unreachable, match="cut"):
            hub.pull("ada/big")
        cuts.clear()
        network.asked.clear()
        hub = open_as(hub_server, None, tmp_path / "cache", network)
    assert contents(hub.pull("ada/big").path) == contents(adapter.path)
    ranges = [
        request.headers.get("range") for request in network.asked if request.url.path.endswith(".safetensors")
    ]
    assert ranges == (["bytes=1000000-"] if another_process else [None, "bytes=1000000-", "bytes=3000000-"])
    assert not list((tmp_path / "cache" / "parts").iterdir())


def part_of(adapter: Artifact, cache: Path) -> Path:
    """Where the weights of an adapter are while they come."""
    weights = adapter.files["adapter_model.safetensors"]
    wanted = Wanted("adapter_model.safetensors", weights.size, "", sha256=weights.sha256)
    return cache / "parts" / adapter.digest.removeprefix("sha256:") / wanted.part


def test_two_files_of_the_same_bytes(hub: RemoteHub, tmp_path: Path) -> None:
    made = write_adapter(tmp_path / "made", width=LARGE)
    for name in ("first.txt", "second.txt"):
        (made.path / name).write_text("the same")
    adapter = Artifact.read(made.path)
    hub.push(adapter, "ada/big")
    assert contents(hub.pull("ada/big").path) == contents(adapter.path)


def test_a_sha256_that_is_a_path_leaves_nothing_outside(
    hub: RemoteHub, network: Network, tmp_path: Path
) -> None:
    """A hostile hub may name any digest, and sha256s that it is the digest of."""
    hub.push(write_adapter(tmp_path / "made", width=LARGE), "ada/big")
    escaped = "../../../escaped"
    digest = digest_of({"adapter_config.json": escaped})

    def spoil(request: httpx2.Request, answer: httpx2.Response) -> httpx2.Response:
        answer.read()
        if request.url.path.endswith("/bundle"):
            return httpx2.Response(204, headers={"x-adapthub-digest": digest, "x-adapthub-size": "5000000"})
        if request.url.path.endswith("/files"):
            files = [{"path": "adapter_config.json", "sha256": escaped, "size": 2}]
            return httpx2.Response(200, json=files)
        return httpx2.Response(200, content=b"{}")

    network.spoil = spoil
    with pytest.raises(IntegrityError):
        hub.pull("ada/big")
    assert not list(tmp_path.rglob("*escaped*"))


def test_a_part_of_something_else_is_thrown_away(hub: RemoteHub, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "made", width=LARGE)
    hub.push(adapter, "ada/big")
    part = (
        tmp_path / "cache" / "parts" / adapter.digest[7:] / adapter.files["adapter_model.safetensors"].sha256
    )
    part.parent.mkdir(parents=True)
    part.write_bytes(b"something else" * 1000)
    assert contents(hub.pull("ada/big").path) == contents(adapter.path)


def test_a_hub_that_sends_all_of_it_again(hub: RemoteHub, network: Network, tmp_path: Path) -> None:
    """Not every server honours Range."""
    adapter = write_adapter(tmp_path / "made", width=LARGE)
    hub.push(adapter, "ada/big")
    part = (
        tmp_path / "cache" / "parts" / adapter.digest[7:] / adapter.files["adapter_model.safetensors"].sha256
    )
    part.parent.mkdir(parents=True)
    part.write_bytes((adapter.path / "adapter_model.safetensors").read_bytes()[:1000])

    def spoil(request: httpx2.Request, answer: httpx2.Response) -> httpx2.Response:
        if "range" not in request.headers:
            return answer
        answer.close()
        whole = (adapter.path / "adapter_model.safetensors").read_bytes()
        return httpx2.Response(200, content=whole)

    network.spoil = spoil
    assert contents(hub.pull("ada/big").path) == contents(adapter.path)


@pytest.mark.parametrize("width", [8, LARGE])
def test_wrong_bytes_are_never_used(hub: RemoteHub, network: Network, tmp_path: Path, width: int) -> None:
    adapter = write_adapter(tmp_path / "made", width=width)
    hub.push(adapter, "ada/ner")

    def spoil(request: httpx2.Request, answer: httpx2.Response) -> httpx2.Response:
        if answer.status_code != 200 or not request.url.path.endswith((".safetensors", "bundle")):
            return answer
        data = bytearray(answer.read())
        data[data.index(b"__metadata__") + 400] ^= 1
        return httpx2.Response(200, headers=answer.headers, content=bytes(data))

    network.spoil = spoil
    with pytest.raises(IntegrityError, match=r"adapter_model\.safetensors"):
        hub.pull("ada/ner")
    assert not [path for path in (tmp_path / "cache").glob("*") if len(path.name) == 64]


@pytest.mark.parametrize(
    "digest", ["sha256:../../../escaped", "../x", "", "sha256:" + "A" * 64, "sha256:" + "a" * 63]
)
def test_a_digest_that_is_a_path_is_refused(
    hub: RemoteHub, network: Network, tmp_path: Path, digest: str
) -> None:
    hub.push(write_adapter(tmp_path / "made"), "ada/ner")

    def spoil(_: httpx2.Request, answer: httpx2.Response) -> httpx2.Response:
        answer.read()
        known = answer.headers.get("x-adapthub-digest", "none")
        body = answer.content.replace(hub_digest.encode(), digest.encode())
        headers = {**answer.headers, "x-adapthub-digest": digest, "content-length": str(len(body))}
        return httpx2.Response(200, headers=headers if known != "none" else {}, content=body)

    hub_digest = hub.resolve("ada/ner").digest
    network.spoil = spoil
    for call in (hub.pull, hub.resolve, hub.show):
        with pytest.raises((StorageError, IntegrityError)):
            call("ada/ner")
    assert not list(tmp_path.rglob("*escaped*"))


def test_offline_it_is_what_it_was(
    hub_server: HubServer, hub: RemoteHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = write_adapter(tmp_path / "made")
    hub.push(adapter, "ada/ner", alias="prod")
    hub.pull("ada/ner@prod")
    hub_server.running.stop()
    gone = open_as(hub_server, None, tmp_path / "cache", Network())
    while True:
        try:
            asking.get(hub_server.url)
        except httpx2.TransportError:
            break
    assert gone.pull("ada/ner@prod").digest == adapter.digest
    assert "ada/ner@prod is used as it was pulled last" in caplog.text
    for ref in ("ada/ner", "ada/other"):
        with pytest.raises(Unreachable, match=hub_server.url):
            gone.pull(ref)
    with pytest.raises(Unreachable):
        gone.push(adapter, "ada/ner")


# push


def test_only_what_the_hub_lacks_is_sent(hub: RemoteHub, network: Network, tmp_path: Path) -> None:
    first = write_adapter(tmp_path / "first", width=LARGE, card="# One")
    second = write_adapter(tmp_path / "second", width=LARGE, card="# Two")
    hub.push(first, "ada/ner")
    network.asked.clear()
    assert hub.push(second, "ada/ner").number == 2
    assert network.paths == ["POST /api/models/ada/ner/versions"]
    assert len(network.asked[0].read()) < 64 * 1024
    network.asked.clear()
    assert hub.push(second, "ada/ner").repeated
    assert [blob for blob in network.paths if "blobs" in blob] == []


def test_a_push_that_was_cut_off_sends_what_came_no_more(
    hub_server: HubServer, hub: RemoteHub, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a name that there is not yet, too: all files were sent again."""
    folder = write_adapter(tmp_path / "made", width=LARGE).path
    (folder / "adapthub.json").unlink(missing_ok=True)
    (folder / "spiece.model").write_bytes(random.Random(1).randbytes(3_000_000))
    made = Artifact.read(folder)
    sizes = {f"PUT /api/models/ada/ner/blobs/{one.sha256}": one.size for one in made.files.values()}
    ends: list[str] = []

    def cut(request: httpx2.Request) -> None:
        if request.method != "PUT":
            return
        if ends and request.url.path != ends[0]:
            request.stream = CutBody(request.stream, 1_000_000)
        ends.append(request.url.path)

    send = network.handle_request

    def handle(request: httpx2.Request) -> httpx2.Response:
        cut(request)
        return send(request)

    with monkeypatch.context() as patched:
        patched.setattr(network, "handle_request", handle)
        with pytest.raises(Unreachable):
            hub.push(made, "ada/ner")
    assert len(set(ends)) == 2
    network.asked.clear()
    assert hub.push(made, "ada/ner").number == 1
    assert [path for path in network.paths if path in sizes] == [f"PUT {ends[-1]}"]
    assert contents(hub.pull("ada/ner").path) == contents(folder)
    with hub_server.running.serving.store.database.reading() as session:
        assert session.scalar(select(func.count()).select_from(PendingRow)) == 0


class CutBody(httpx2.SyncByteStream):
    """The first `length` bytes of a request, and then the connection is gone."""

    def __init__(self, body: Any, length: int) -> None:
        self._body, self._left = body, length

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._body:
            if len(piece) >= self._left:
                yield piece[: self._left]
                raise httpx2.WriteError("the connection was cut")
            self._left -= len(piece)
            yield piece


def test_blobs_that_are_to_be_published_count(hub_server: HubServer, hub: RemoteHub) -> None:
    """Only what was published did: anybody who may write could fill the disk."""
    store = hub_server.running.serving.store
    with store.database.writing() as session:
        quotas.set_quota(session, "ada", 1_000_000)
    first, second = (bytes([n]) * 600_000 for n in (1, 2))
    where = "/api/models/ada/{}/blobs/{}"
    for name in ("ner", "ner", "other"):  # each blob counts once
        hub._connection.ask("PUT", where.format(name, sha256_bytes(first)), content=first)
    with pytest.raises(Forbidden, match="may hold 1,000,000"):
        hub._connection.ask("PUT", where.format("ner", sha256_bytes(second)), content=second)
    assert store.blobs.size(sha256_bytes(second)) is None
    collect(store, grace=timedelta(0))
    assert store.blobs.size(sha256_bytes(first)) is None  # nobody published it
    hub._connection.ask("PUT", where.format("ner", sha256_bytes(second)), content=second)
    collect(store)
    assert store.blobs.size(sha256_bytes(second)) == 600_000


def test_what_awaits_its_publication_is_its_names_alone(
    hub_server: HubServer, hub: RemoteHub, tmp_path: Path
) -> None:
    made = write_adapter(tmp_path / "made", width=LARGE)
    record = made.files["adapter_model.safetensors"]
    content = (made.path / "adapter_model.safetensors").read_bytes()
    hub._connection.ask("PUT", f"/api/models/ada/ner/blobs/{record.sha256}", content=content)
    files = {
        path: {"sha256": file.sha256, "size": file.size} if file is record else _whole(made, path)
        for path, file in made.files.items()
    }
    for name in ("ada/other", "shared/ner"):
        answer = hub._connection.ask("POST", f"/api/models/{name}/versions", json={"files": files}).json()
        assert answer == {"version": None, "missing": [record.sha256]}
    answer = hub._connection.ask("POST", "/api/models/ada/ner/versions", json={"files": files}).json()
    assert answer["version"]["number"] == 1


def test_weights_that_changed_since_they_were_read(hub: RemoteHub, tmp_path: Path) -> None:
    """The hub finds it, and this side says which side it was."""
    made = write_adapter(tmp_path / "made", width=LARGE)
    weights = made.path / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"adapter_model\.safetensors changed since it was read"):
        hub.push(made, "ada/ner")
    weights.write_bytes(data[:-1])
    with pytest.raises(IntegrityError, match=r"adapter_model\.safetensors changed since it was read"):
        hub.push(made, "ada/ner")
    assert hub.available("ada/ner")


def test_what_the_client_pushed_hugging_faces_reads(
    hub_server: HubServer, hub: RemoteHub, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "made", card="# A card")
    hub.push(adapter, "ada/ner", message="by hand", alias="prod")
    info = hub_server.client(None).model_info("ada/ner", revision="prod", files_metadata=True)
    lfs = {file.rfilename: file.lfs is not None for file in info.siblings or ()}
    assert lfs == {"README.md": False, "adapter_config.json": False, "adapter_model.safetensors": True}
    assert EmbeddedHub(hub_server.data).resolve("ada/ner@prod").message == "by hand"


def test_a_refused_push_changes_nothing(
    hub_server: HubServer, hub: RemoteHub, network: Network, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "made", card="---\n- no map\n---\n")
    with pytest.raises(AdmissionError, match="must be a map"):
        hub.push(adapter, "ada/ner")
    assert hub.available("ada/ner")
    assert EmbeddedHub(hub_server.data).list() == []


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"files": {}}, AdmissionError),
        ({"files": {"../x.json": {"sha256": "0" * 64, "size": 0, "content": ""}}}, AdaptHubError),
        ({"files": {"x.json": {"sha256": "0" * 64, "size": 1, "content": "AA=="}}}, IntegrityError),
        ({"files": {"x.json": {"sha256": "zz", "size": 1}}}, AdaptHubError),
        ({"files": 3}, AdaptHubError),
        ({"alias": "v3"}, AdaptHubError),
    ],
)
def test_publications_that_are_refused(
    hub_server: HubServer, hub: RemoteHub, change: dict[str, Any], kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        hub._connection.ask("POST", "/api/models/ada/ner/versions", json={"files": {}, **change})
    assert hub.available("ada/ner")


def test_a_blob_with_a_wrong_digest_is_refused(hub: RemoteHub) -> None:
    with pytest.raises(AdaptHubError, match="the upload has the sha256"):
        hub._connection.ask("PUT", f"/api/models/ada/ner/blobs/{'0' * 64}", content=b"other")


def test_the_digest_of_bytes_gives_no_right_to_them(
    hub_server: HubServer, hub: RemoteHub, tmp_path: Path
) -> None:
    """Whoever names what another's private adapter has must send it, and a receipt is good for one name and one file."""
    secret = write_adapter(tmp_path / "made", width=LARGE)
    hub.push(secret, "ada/secret")
    hub_server.client("ada").update_repo_settings("ada/secret", visibility="private")
    bob = open_as(hub_server, hub_server.token("bob"), tmp_path / "bob")
    record = secret.files["adapter_model.safetensors"]
    files = {
        path: {"sha256": file.sha256, "size": file.size} if file is record else _whole(secret, path)
        for path, file in secret.files.items()
    }
    where = "/api/models/bob/stolen/versions"
    answer = bob._connection.ask("POST", where, json={"files": files}).json()
    assert answer == {"version": None, "missing": [record.sha256]}
    content = (secret.path / "adapter_model.safetensors").read_bytes()
    receipt = hub._connection.ask(
        "PUT", f"/api/models/ada/other/blobs/{record.sha256}", content=content
    ).json()["receipt"]
    for forged in (receipt, "", "a-1-2-b", f"{record.sha256}-{record.size}-9999999999-{'0' * 64}"):
        files["adapter_model.safetensors"]["receipt"] = forged
        with pytest.raises(Forbidden):
            bob._connection.ask("POST", where, json={"files": files})
    assert bob.available("bob/stolen")


def _whole(adapter: Artifact, path: str) -> dict[str, Any]:
    data = (adapter.path / path).read_bytes()
    return {"sha256": sha256_bytes(data), "size": len(data), "content": base64.b64encode(data).decode()}


# who may do what


def test_who_may_do_what(hub_server: HubServer, hub: RemoteHub, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "made")
    hub.push(adapter, "ada/ner", alias="prod")
    hub_server.client("ada").update_repo_settings("ada/ner", visibility="private")
    bob = open_as(hub_server, hub_server.token("bob"), tmp_path / "bob")
    nobody = open_as(hub_server, None, tmp_path / "nobody")
    reader = open_as(hub_server, hub_server.token("ada", "read"), tmp_path / "reader")
    for other in (bob, nobody):
        assert other.list() == []
        assert other.search("ner") == []
        for call in (other.pull, other.resolve, other.show):
            with pytest.raises(AdapterNotFound):
                call("ada/ner")
        assert other.available("ada/ner")
    assert reader.pull("ada/ner").digest == adapter.digest
    with pytest.raises(Unauthorized, match="adapt login"):
        nobody.push(adapter, "new/ner")
    for name in ("ada/ner", "new/ner"):
        hub.check_may_push(name)
        with pytest.raises((Unauthorized, AdapterNotFound), match="token|or not for you"):
            nobody.check_may_push(name)
        with pytest.raises(Forbidden, match="scope read"):
            reader.check_may_push(name)
    bob.check_may_push("new/ner")
    with pytest.raises(Forbidden, match="bob may not write to ada/"):
        bob.check_may_push("ada/other")
    refusals: tuple[Callable[[], object], ...] = (
        lambda: bob.push(write_adapter(tmp_path / "more", seed=1), "ada/other"),
        lambda: reader.push(adapter, "ada/ner"),
        lambda: reader.promote("ada/ner", "beta"),
        lambda: reader.rollback("ada/ner", "prod"),
    )
    for refused in refusals:
        with pytest.raises(Forbidden):
            refused()
    with pytest.raises(AdapterNotFound):
        bob.promote("ada/ner", "beta")
    with pytest.raises(Unauthorized, match="adapt login"):
        open_as(hub_server, "ah_no_such_token", tmp_path / "x").list()


def test_a_gated_adapter_is_shown_and_not_given(
    hub_server: HubServer, hub: RemoteHub, tmp_path: Path
) -> None:
    hub.push(write_adapter(tmp_path / "made", manifest=manifest()), "ada/ner")
    hub_server.client("ada").update_repo_settings("ada/ner", gated="manual")
    bob = open_as(hub_server, hub_server.token("bob"), tmp_path / "bob")
    assert bob.resolve("ada/ner").number == 1
    assert (bob.show("ada/ner").manifest is None, hub.show("ada/ner").manifest is None) == (True, False)
    with pytest.raises(Forbidden, match="gated"):
        bob.pull("ada/ner")


def test_another_task_is_told_as_it_is(hub: RemoteHub, tmp_path: Path) -> None:
    hub.push(write_adapter(tmp_path / "made"), "ada/ner")
    other = write_adapter(
        tmp_path / "other", manifest=manifest(task="text-classification", labels=("a", "b"))
    )
    with pytest.raises(Conflict, match=r"Choose another name") as caught:
        hub.push(other, "ada/ner")
    assert caught.value.hint == "Choose another name."


def test_aliases_with_their_history(hub_server: HubServer, hub: RemoteHub, tmp_path: Path) -> None:
    for seed in range(2):
        hub.push(write_adapter(tmp_path / str(seed), seed=seed), "ada/ner", alias="prod")
    (alias,) = asking.get(f"{hub_server.url}/api/models/ada/ner/aliases").json()
    assert (alias["name"], alias["number"]) == ("prod", 2)
    assert [(move["source"], move["target"]) for move in alias["history"]] == [(None, 1), (1, 2)]
    assert asking.get(f"{hub_server.url}/api/models/ada/none/aliases").status_code == 404


# the token, when Hugging Face's client uploads


@contextmanager
def catcher() -> Iterator[tuple[str, list[dict[str, str | None]]]]:
    """A server elsewhere that takes everything, and notes the headers of each request."""
    seen: list[dict[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            seen.append({"path": self.path, "authorization": self.headers.get("authorization")})
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        do_POST = do_PUT

        def log_message(self, format: str, *args: object) -> None:
            pass

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
        server.shutdown()
        thread.join()


def test_an_upload_reported_elsewhere_gets_no_token(
    hub_server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = write_adapter(tmp_path / "made")
    connection = Connection(hub_server.url, hub_server.token())
    with catcher() as (elsewhere, seen):
        monkeypatch.setattr(lfs_api, "origin", lambda _: elsewhere)
        with pytest.raises(AdaptHubError):  # what went elsewhere is not here
            PlainHub(connection).push(adapter, Reference.parse("ada/ner"), message="", alias=None)
    assert [one["authorization"] for one in seen] == [None, None]
    assert str(seen[1]["path"]).endswith("/verify")


def test_a_mirror_has_the_same_bytes(hub_server: HubServer, hub: RemoteHub, tmp_path: Path) -> None:
    adapters = [write_adapter(tmp_path / str(seed), seed=seed) for seed in range(3)]
    for number, adapter in enumerate(adapters):
        hub.push(adapter, "ada/ner", message=f"try {number}")
    target = EmbeddedHub(tmp_path / "target", cache=tmp_path / "target-cache")
    (copied,) = mirror(hub, "ada/ner@v2", target, "mine/ner")
    assert (copied.number, copied.digest, copied.message) == (1, adapters[1].digest, "try 1")
    again = list(mirror(hub, "ada/ner", target, "mine/ner"))
    assert [(version.digest, version.repeated) for version in again] == [
        (adapters[0].digest, False),
        (adapters[1].digest, True),
        (adapters[2].digest, False),
    ]
    assert Artifact.read(target.pull("mine/ner").path).digest == adapters[2].digest


# signatures, gates and the log


def test_a_signature_is_brought_once(
    hub_server: HubServer, hub: RemoteHub, network: Network, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "made")
    bundle = sign(adapter.sha256s, KEY)
    hub.push(adapter, "ada/ner", alias="prod")
    hub.pull("ada/ner")
    hub.attach_signature("ada/ner@prod", bundle)
    network.asked.clear()
    assert [hub.pull("ada/ner").signature for _ in range(2)] == [bundle, bundle]
    version = "GET /api/models/ada/ner/versions/latest/bundle"
    commit = hub_server.client("ada").model_info("ada/ner").sha
    assert network.paths == [version, f"GET /ada/ner/resolve/{commit}/model.sig", version]

    def gone(request: httpx2.Request, answer: httpx2.Response) -> httpx2.Response:
        raise httpx2.ConnectError("no route")

    network.spoil = gone
    assert hub.pull("ada/ner").signature == bundle


def test_a_signature_that_is_damaged_on_the_way_is_refused(
    hub: RemoteHub, network: Network, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "made")
    hub.push(replace(adapter, signature=sign(adapter.sha256s, KEY)), "ada/ner")

    def damage(request: httpx2.Request, answer: httpx2.Response) -> httpx2.Response:
        damaged = request.url.path.endswith("model.sig")
        return (
            httpx2.Response(200, content=b"x" * int(answer.headers["content-length"])) if damaged else answer
        )

    network.spoil = damage
    with pytest.raises(IntegrityError, match=r"model\.sig"):
        hub.pull("ada/ner")


def test_the_server_itself_looks_at_a_signature(hub_server: HubServer, tmp_path: Path) -> None:
    adapter, other = (write_adapter(tmp_path / str(seed), seed=seed) for seed in range(2))
    careless = OwnHub(Connection(hub_server.url, hub_server.token()))
    signed = replace(adapter, signature=sign(other.sha256s, KEY))
    with pytest.raises(SignatureError, match="another 'adapter_model.safetensors' than was signed"):
        careless.push(signed, Reference.parse("ada/ner"), message="", alias=None)
    assert EmbeddedHub(hub_server.data).available("ada/ner")


def test_a_push_is_in_the_log_with_who_did_it(hub_server: HubServer, hub: RemoteHub, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "made")
    hub.push(adapter, "ada/ner", alias="prod")
    hub.push(replace(adapter, signature=sign(adapter.sha256s, KEY)), "ada/ner")
    with Store.open(hub_server.data).database.reading() as session:
        log = [entry for entry in audit.entries(session) if entry.repo == "ada/ner"]
    assert {entry.action for entry in log} == {"repo.made", "commit", "version", "alias.moved", "signature"}
    assert {(entry.actor, bool(entry.token)) for entry in log} == {("ada", True)}


def test_a_gate_holds_for_a_push_with_an_alias(hub_server: HubServer, hub: RemoteHub, tmp_path: Path) -> None:
    with Store.open(hub_server.data).database.writing() as session:
        gates.set_gate(session, gates.Gate("ada", "ner", "prod", reviewers=1))
    with pytest.raises(Forbidden, match="prod may not move to v1 of ada/ner: .*approv"):
        hub.push(write_adapter(tmp_path / "made"), "ada/ner", alias="prod")
    assert hub.available("ada/ner")
    hub.push(write_adapter(tmp_path / "again"), "ada/ner")
    with pytest.raises(Forbidden, match="prod may not move to v1 of ada/ner: .*approv"):
        hub.promote("ada/ner", "prod")


# what a hub knows


def test_a_list_comes_page_by_page(
    hub_server: HubServer, hub: RemoteHub, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapthub.hub.own_hub.PAGE", 2)
    names = [f"ada/{name}" for name in "cebda"]
    for seed, name in enumerate(names):
        hub.push(write_adapter(tmp_path / str(seed), seed=seed, manifest=manifest()), name)
    network.asked.clear()
    assert [entry.name for entry in hub.list("ada")] == sorted(names)
    assert network.paths == ["GET /api/adapters"] * 3
    assert hub.list("ada") == EmbeddedHub(hub_server.data).list("ada")


def test_lineage_and_fit_come_from_the_hub(hub: RemoteHub, network: Network, tmp_path: Path) -> None:
    first = hub.push(write_adapter(tmp_path / "1", manifest=manifest()), "ada/first")
    child = manifest(parents=[parent_of(first)])
    second = hub.push(write_adapter(tmp_path / "2", seed=1, manifest=child), "ada/second")
    network.asked.clear()
    found = hub.lineage("ada/first")
    assert network.paths == ["GET /api/models/ada/first/lineage"]
    assert (found.root, [*found.descendants]) == (first.digest, [second.digest])
    assert [*hub.lineage("ada/second").versions] == [second.digest, first.digest]
    fit = hub.show("ada/second").fit
    assert fit is not None
    assert fit.verdict == "unknown"
