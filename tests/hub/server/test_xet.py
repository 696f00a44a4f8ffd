"""Clients as they are installed, which upload by Xet: what they send is there, and is read like everything else."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest

from adapthub.adapters.files import sha256_bytes
from adapthub.hub.collecting import collect
from adapthub.hub.embedded import EmbeddedHub
from adapthub.hub.epoch import raise_epoch
from tests import asking
from tests.adapters.causal_pass import write_causal_base
from tests.hub.adapters import contents, write_adapter
from tests.hub.server.live import HubServer
from tests.hub.server.test_tools import PEFT, run

UPLOAD = """
import sys
from huggingface_hub import HfApi
api = HfApi()
api.create_repo(sys.argv[1], exist_ok=True, private=len(sys.argv) > 3)
api.upload_folder(repo_id=sys.argv[1], folder_path=sys.argv[2])
"""


def upload(server: HubServer, home: Path, repo: str, folder: Path, token: str) -> None:
    run([sys.executable, "-c", UPLOAD, repo, str(folder)], server.environment(home, token, xet=True))


def xorbs(server: HubServer) -> list[Path]:
    return [path for path in (server.data / "xet").rglob("*") if path.is_file() and len(path.name) == 64]


def test_an_adapter_uploaded_by_xet(hub_server: HubServer, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "made", card="# A card", width=40_000)
    token = hub_server.token()
    upload(hub_server, tmp_path / "home", "ada/ner", adapter.path, token)
    assert len(xorbs(hub_server)) == 1
    hub = EmbeddedHub(hub_server.data, cache=tmp_path / "cache")
    assert hub.resolve("ada/ner").digest == adapter.digest
    assert contents(hub.pull("ada/ner").path) == contents(adapter.path)
    head = asking.head(f"{hub_server.url}/ada/ner/resolve/main/adapter_model.safetensors")
    assert not [name for name in head.headers if "xet" in name.lower()]
    # The same client again, believing that the hub has what it sent, when it has been collected; then in another epoch.
    hub_server.client().delete_repo("ada/ner")
    assert collect(hub_server.running.serving.store, grace=timedelta(0)).blobs == len(adapter.files)
    upload(hub_server, tmp_path / "home", "ada/again", adapter.path, token)
    assert len(xorbs(hub_server)) == 1
    with hub_server.running.serving.store.database.writing() as session:
        raise_epoch(session)
    upload(hub_server, tmp_path / "home", "ada/third", adapter.path, token)
    assert {hub.resolve(f"ada/{name}").digest for name in ("again", "third")} == {adapter.digest}


@pytest.mark.slow
def test_hf_upload_of_a_large_file(hub_server: HubServer, tmp_path: Path) -> None:
    environment = hub_server.environment(tmp_path / "home", hub_server.token(), xet=True)
    data = random.Random(5).randbytes(9_000_000)
    path = tmp_path / "notes.dat"
    path.write_bytes(data)
    hf = str(Path(sys.executable).with_name("hf"))
    run([hf, "upload", "ada/ner", str(path), "notes.dat"], environment)
    assert asking.get(f"{hub_server.url}/ada/ner/resolve/main/notes.dat").content == data


@pytest.mark.slow
def test_peft_pushes_by_xet(hub_server: HubServer, tmp_path: Path) -> None:
    base = write_causal_base(tmp_path / "base")
    environment = hub_server.environment(tmp_path / "home", hub_server.token(), xet=True)
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    run([sys.executable, "-c", PEFT, str(base), str(tmp_path)], environment)
    assert len(xorbs(hub_server)) == 1
    assert EmbeddedHub(hub_server.data).show("ada/tone@main").version.number == 1


def test_a_token_that_may_not_write_uploads_nothing(hub_server: HubServer, tmp_path: Path) -> None:
    api = hub_server.client()
    api.create_repo("ada/ner")
    url = f"{hub_server.url}/api/models/ada/ner/xet-write-token/main"
    for name, scope, status in (("ada", "read", 403), ("bob", "write", 403), ("ada", "write", 200)):
        headers = {"Authorization": f"Bearer {hub_server.token(name, scope)}"}  # type: ignore[arg-type]
        assert asking.get(url, headers=headers).status_code == status, (name, scope)
    assert asking.get(url).status_code == 401
    write_adapter(tmp_path / "made")
    environment = hub_server.environment(tmp_path / "home", hub_server.token("bob"), xet=True)
    done = subprocess.run(
        [sys.executable, "-c", UPLOAD, "ada/ner", str(tmp_path / "made")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "bob may not write to ada/" in done.stderr


def test_a_token_revoked_during_an_upload_ends_it(hub_server: HubServer) -> None:
    hub_server.client().create_repo("ada/ner")
    token = hub_server.token()
    headers = {"Authorization": f"Bearer {token}"}
    grant = asking.get(f"{hub_server.url}/api/models/ada/ner/xet-write-token/main", headers=headers).json()
    assert grant["casUrl"].startswith(hub_server.url)
    access = {"Authorization": f"Bearer {grant['accessToken']}"}
    url = f"{grant['casUrl']}/v1/shards"
    assert asking.post(url, headers=access, content=b"none").status_code == 400
    with hub_server.running.serving.store.database.writing() as session:
        from adapthub.hub.accounts import revoke_token

        revoke_token(session, token)
    assert asking.post(url, headers=access, content=b"none").status_code == 403
    with hub_server.running.serving.store.database.writing() as session:
        raise_epoch(session)
    assert asking.post(url, headers=access, content=b"none").status_code == 401


def test_knowing_a_digest_gives_nobody_a_private_file(hub_server: HubServer, tmp_path: Path) -> None:
    """A commit names only what its own repository was sent, and LFS and Xet ask for the bytes whatever the hub has."""
    secret = write_adapter(tmp_path / "secret", seed=1)
    weights = (secret.path / "adapter_model.safetensors").read_bytes()
    api = hub_server.client("ada")
    api.create_repo("ada/secret", private=True)
    api.upload_folder(repo_id="ada/secret", folder_path=secret.path)
    eve = {"Authorization": f"Bearer {hub_server.token('eve')}"}
    hub_server.client("eve").create_repo("eve/theft")
    oid, size = sha256_bytes(weights), len(weights)
    line = {"key": "lfsFile", "value": {"path": "a.safetensors", "algo": "sha256", "oid": oid, "size": size}}
    body = b'{"key":"header","value":{"summary":"a"}}\n' + json.dumps(line).encode()

    def commit() -> httpx2.Response:
        return asking.post(f"{hub_server.url}/api/models/eve/theft/commit/main", content=body, headers=eve)

    lfs = f"{hub_server.url}/eve/theft.git/info/lfs/objects"
    batch = {"operation": "upload", "objects": [{"oid": oid, "size": size}]}
    (entry,) = asking.post(f"{lfs}/batch", json=batch, headers=eve).json()["objects"]
    assert "upload" in entry["actions"]
    verify = asking.post(f"{lfs}/verify", json={"oid": oid, "size": size}, headers=eve)
    assert verify.status_code == 400
    answer = commit()
    assert (answer.status_code, "sent no bytes" in answer.json()["error"]) == (400, True)
    assert asking.put(entry["actions"]["upload"]["href"], content=weights).status_code == 200
    assert commit().status_code == 200  # she has them: it is no secret to her
