"""What strangers send to a hub server: each is refused by name, and nothing of it stays."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError
from sqlalchemy import select

from adapthub.hub.checking import check
from adapthub.hub.storage.tables import VersionRow
from adapthub.hub.trees import read_tree
from tests import asking
from tests.hub.adapters import write_adapter
from tests.hub.server.live import HubServer

CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query"]}


def header(entries: dict[str, Any], data: bytes = b"") -> bytes:
    """A safetensors file of these entries."""
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


def one(shape: list[int], end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}


@pytest.fixture
def api(hub_server: HubServer) -> HfApi:
    api = hub_server.client()
    api.create_repo("ada/ner")
    return api


def refused(api: HfApi, files: dict[str, bytes]) -> str:
    """Commit the files; what the server said, once it is seen that nothing changed."""
    before = api.model_info("ada/ner").sha
    operations = [CommitOperationAdd(name, data) for name, data in files.items()]
    with pytest.raises(HfHubHTTPError) as caught:
        api.create_commit("ada/ner", operations, commit_message="hostile")
    assert caught.value.response.status_code == 422
    assert api.model_info("ada/ner").sha == before
    return str(caught.value)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({**CONFIG, "target_modules": "(a+)+$"}, "target_modules"),
        ({**CONFIG, "r": 2**40}, "r must be"),
        ({**CONFIG, "surprise": 1}, "surprise"),
        ({**CONFIG, "peft_type": "XLORA"}, "XLORA"),
    ],
)
def test_a_configuration_outside_the_policy(api: HfApi, config: dict[str, Any], named: str) -> None:
    assert named in refused(api, {"adapter_config.json": json.dumps(config).encode()})


@pytest.mark.parametrize(
    ("weights", "named"),
    [
        (b"\x80\x02}q\x00.", "truncated"),
        (header({"a": one([2, 2], 16)}, b"\0" * 12), "truncated"),
        (header({"a": one([2, 2], 16)}, b"\0" * 20), "trailing"),
        (b"\xff" * 8 + b"{}", "a header of"),
        ((2**24).to_bytes(8, "little") + b"{" + b" " * 2**24, "a header of"),
        (b"\x10" + b"\0" * 7 + b'{"a":1,"a":2}   ', "twice"),
        (header({"a": one([1] * 40, 4)}, b"\0" * 4), "up to 32 sizes"),
    ],
)
def test_weights_whose_header_lies(api: HfApi, weights: bytes, named: str) -> None:
    assert named in refused(api, {"adapter_model.safetensors": weights})


@pytest.mark.parametrize(
    "name", ["adapter_model.bin", "training_args.bin", "code/run.py", ".hidden/a.txt", "con.txt"]
)
def test_files_that_no_adapter_has(api: HfApi, name: str) -> None:
    assert name.rpartition("/")[2] in refused(api, {name: b"x"}) or "hidden" in name


def test_a_whole_adapter_with_something_else_beside_it(api: HfApi, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "made")
    files = {name: (adapter.path / name).read_bytes() for name in adapter.files}
    assert "model.safetensors" in refused(api, {**files, "model.safetensors": header({})})


def test_an_adapter_without_a_half(api: HfApi, tmp_path: Path) -> None:
    weights = header({"base_model.model.query.lora_A.weight": one([2, 2], 16)}, b"\0" * 16)
    files = {"adapter_config.json": json.dumps(CONFIG).encode(), "adapter_model.safetensors": weights}
    assert "lora_B" in refused(api, files)


def raw(path: str, content: bytes = b"") -> bytes:
    line = {"key": "file", "value": {"path": path, "content": base64.b64encode(content).decode()}}
    return (
        json.dumps({"key": "header", "value": {"summary": "raw"}}).encode()
        + b"\n"
        + json.dumps(line).encode()
    )


@pytest.mark.parametrize(
    "path",
    ["../up", "/etc/passwd", "a/../b", ".git/config", "-rf", "a\\b", "a//b", "", "a\u202eb", "x" * 600],
)
def test_paths_that_leave_or_deceive(hub_server: HubServer, path: str) -> None:
    answer = post(hub_server, "/api/models/ada/ner/commit/main", raw(path))
    assert answer.status_code == 422, answer.text
    assert "path" in answer.headers["x-error-message"]


def test_what_tools_leave_is_no_part_of_an_adapter(hub_server: HubServer, tmp_path: Path) -> None:
    """A hub that had it beside an adapter was not whole."""
    hub_server.client().create_repo("ada/ner")
    commit = raw(".cache/note.txt", b"a note")
    assert post(hub_server, "/api/models/ada/ner/commit/main", commit).status_code == 200
    hub_server.client().upload_folder(repo_id="ada/ner", folder_path=write_adapter(tmp_path / "made").path)
    store = hub_server.running.serving.store
    with store.database.reading() as session:
        version = session.scalar(select(VersionRow))
        assert version is not None
        assert ".cache/note.txt" in read_tree(session, version.id)
    assert check(store).problems == []


def test_a_card_is_read_no_further_than_its_metadata_can_be(
    hub_server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each question about an older revision read all of a card of 60 MB."""
    api = hub_server.client()
    api.create_repo("ada/ner")
    card = b"---\nlicense: mit\n---\n" + b"text\n" * 400_000
    old = api.create_commit("ada/ner", [CommitOperationAdd("README.md", card)], commit_message="long")
    api.create_commit("ada/ner", [CommitOperationAdd("README.md", b"short")], commit_message="short")
    blobs, asked = hub_server.running.serving.store.blobs, []

    def read(sha256: str, offset: int, length: int) -> bytes:
        asked.append(length)
        return type(blobs).read(blobs, sha256, offset, length)

    monkeypatch.setattr(blobs, "read", read)
    found = api.model_info("ada/ner", revision=old.oid).card_data
    assert found is not None
    assert found.license == "mit"
    api.move_repo("ada/ner", "ada/moved")
    assert 0 < max(asked) <= 2**20


def post(server: HubServer, path: str, body: bytes, token: str | None = "") -> httpx2.Response:
    """A request to a repository that is there; `token` "" is one that may write."""
    server.client().create_repo("ada/ner", exist_ok=True)
    text = server.token() if token == "" else token
    headers = {"Content-Type": "application/json"}
    headers |= {} if text is None else {"Authorization": f"Bearer {text}"}
    return asking.post(server.url + path, content=body, headers=headers)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[1]",
        b"[" * 100_000,
        b'{"key":"header","value":{}}',
        b'{"key":"header","value":{"summary":"a"}}\n{"key":"surprise","value":1}',
        b'{"key":"header","value":{"summary":"a"}}\n{"key":"file","value":{"path":"a","content":"?"}}',
        b'{"key":"header","value":{"summary":"a"}}\n{"key":"lfsFile","value":{"path":"a","oid":"x","algo":"md5"}}',
        b'{"key":"header","value":{"summary":"a\\u0000"}}\n{"key":"file","value":{"path":"a","content":""}}',
    ],
)
def test_commits_that_do_not_read(hub_server: HubServer, body: bytes) -> None:
    answer = post(hub_server, "/api/models/ada/ner/commit/main", body)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_bytes_that_were_never_uploaded(hub_server: HubServer) -> None:
    line = {
        "key": "lfsFile",
        "value": {"path": "a.safetensors", "algo": "sha256", "oid": "0" * 64, "size": 1},
    }
    body = b'{"key":"header","value":{"summary":"a"}}\n' + json.dumps(line).encode()
    answer = post(hub_server, "/api/models/ada/ner/commit/main", body)
    assert (answer.status_code, "not uploaded" in answer.json()["error"]) == (400, True)


def upload_url(server: HubServer, oid: str, size: int) -> str:
    body = json.dumps({"operation": "upload", "objects": [{"oid": oid, "size": size}]}).encode()
    (entry,) = post(server, "/ada/ner.git/info/lfs/objects/batch", body).json()["objects"]
    return str(entry["actions"]["upload"]["href"])


OID = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # of "hello"


def test_an_upload_must_be_what_was_announced(hub_server: HubServer) -> None:
    url = upload_url(hub_server, OID, 5)
    assert asking.put(url, content=b"hell0").status_code == 422
    assert asking.put(url, content=b"hell").status_code == 400
    assert asking.put(url, content=b"hello, world").status_code == 413
    blobs = hub_server.data / "blobs"
    assert [path for path in blobs.rglob("*") if path.is_file()] == []
    assert asking.put(url, content=b"hello").status_code == 200
    assert [path.read_bytes() for path in blobs.rglob("*") if path.is_file()] == [b"hello"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda url: url.replace(OID, "0" * 64),
        lambda url: url.replace("ada/ner.git", "ada/other.git"),
        lambda url: url.replace(f"{OID}?", f"{OID}/1?"),
        lambda url: url.partition("?")[0],
        lambda url: url[:-3] + "xxx",
        lambda url: url.replace("signed=WzUs", "signed=WzYs"),  # "[5," to "[6,": the size
    ],
)
def test_a_signed_address_is_for_one_thing(hub_server: HubServer, spoil: Callable[[str], str]) -> None:
    url = upload_url(hub_server, OID, 5)
    assert spoil(url) != url
    assert asking.put(spoil(url), content=b"hello").status_code == 403


def test_nobody_uploads_without_a_token(hub_server: HubServer) -> None:
    for path, body in (
        ("/ada/ner.git/info/lfs/objects/batch", b'{"operation":"upload","objects":[]}'),
        ("/api/models/ada/ner/commit/main", raw("a.txt")),
        ("/api/models/ada/ner/preupload/main", b'{"files":[]}'),
        ("/api/models/ada/ner/branch/b", b"{}"),
        ("/api/repos/create", b'{"name":"x","organization":"ada"}'),
    ):
        assert post(hub_server, path, body, token=None).status_code == 401, path
        assert post(hub_server, path, body, token=hub_server.token("eve", "read")).status_code == 403, path
        assert post(hub_server, path, body, token=hub_server.token("bob")).status_code == 403, path


@pytest.mark.parametrize(
    ("range_", "status", "expected"),
    [
        ("bytes=0-2", 206, b"012"),
        ("bytes=7-", 206, b"789"),
        ("bytes=-3", 206, b"789"),
        ("bytes=5-100", 206, b"56789"),
        ("bytes=10-", 416, b""),
        ("bytes=-0", 416, b""),
        ("bytes=3-1", 200, b"0123456789"),
        ("bytes=0-1,4-5", 200, b"0123456789"),
        ("bytes=" + "9" * 40 + "-", 200, b"0123456789"),
        ("lines=1-2", 200, b"0123456789"),
    ],
)
def test_ranges(hub_server: HubServer, range_: str, status: int, expected: bytes) -> None:
    api = hub_server.client()
    api.create_repo("ada/ner")
    done = api.upload_file(path_or_fileobj=b"0123456789", path_in_repo="a.txt", repo_id="ada/ner")
    url = f"{hub_server.url}/ada/ner/resolve/main/a.txt"
    answer = asking.get(url, headers={"Range": range_})
    assert (answer.status_code, answer.content) == (status, expected)
    assert answer.headers["x-repo-commit"] == done.oid
    head = asking.head(url, headers={"Range": range_})
    assert head.headers["etag"] == answer.headers["etag"]
    tag = answer.headers["etag"]
    for held in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        assert asking.get(url, headers={"If-None-Match": held}).status_code == 304
    for other in ('"other"', tag.strip('"'), f'"{tag}"'):
        assert asking.get(url, headers={"If-None-Match": other}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/api/models/ada/ner/revision/%ff",
        "/api/models/ada/ner/revision/a%00b",
        "/api/models?search=%00",
        "/api/models?sort=colour",
        "/api/models?limit=0",
        "/api/models/ada/-ner",
    ],
)
def test_addresses_that_mean_nothing(hub_server: HubServer, path: str) -> None:
    answer = asking.get(hub_server.url + path)
    assert answer.status_code == 400, answer.text
    assert answer.headers["x-error-message"]


def test_a_hub_without_tokens_answers_its_own_machine(hub_server: HubServer) -> None:
    assert asking.get(f"{hub_server.url}/api/models").json() == []
    assert asking.get(f"{hub_server.url}/api/models", headers={"Host": "evil.example"}).status_code == 403
    hub_server.token()
    assert asking.get(f"{hub_server.url}/api/models", headers={"Host": "hub.example"}).status_code == 200
