"""A hub whose blobs are in S3: uploaded, read by range, collected, checked; what is wrong with the place is said at once."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from huggingface_hub import snapshot_download

from adapthub.adapters.errors import StorageError
from adapthub.adapters.files import sha256_bytes
from adapthub.cli.main import adapt
from adapthub.hub.backups import backup, restore
from adapthub.hub.checking import check
from adapthub.hub.collecting import collect
from adapthub.hub.server.serving import Limits
from adapthub.hub.storage.places import open_blobs
from adapthub.hub.store import Store
from tests import asking
from tests.hub.adapters import contents, write_adapter
from tests.hub.s3 import s3
from tests.hub.server.live import live

pytestmark = pytest.mark.slow
PLACE = "s3://adapters/hub"


@pytest.fixture(autouse=True)
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with s3(monkeypatch) as url:
        yield url


def test_a_hub_on_s3(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "made", card="# Card", width=100_000)
    data = random.Random(0).randbytes(20_000_000)  # several parts of an upload to S3
    (tmp_path / "large.dat").write_bytes(data)
    with live(tmp_path / "served", blobs=PLACE, limits=Limits(part_bytes=9_000_000)) as server:
        api = server.client()
        api.create_repo("ada/ner")
        api.upload_folder(repo_id="ada/ner", folder_path=adapter.path)
        got = snapshot_download("ada/ner", endpoint=server.url)
        assert contents(Path(got)) == contents(adapter.path)
        api.create_repo("ada/large")
        api.upload_file(path_or_fileobj=tmp_path / "large.dat", path_in_repo="a.dat", repo_id="ada/large")
        url = f"{server.url}/ada/large/resolve/main/a.dat"
        assert asking.get(url).content == data
        part = asking.get(url, headers={"Range": "bytes=9000000-9000099"})
        assert (part.status_code, part.content) == (206, data[9_000_000:9_000_100])
        store = server.running.serving.store
        assert check(store).whole
        store.blobs.put(sha256_bytes(b"a stray"), b"a stray", origin="test")
        collected = collect(store, grace=timedelta(0))  # the parts that it came in went when it was whole
        assert (collected.strays, collected.blobs, collected.bytes) == (1, 1, len(b"a stray"))
        api.delete_repo("ada/large")
        assert collect(store, grace=timedelta(0)).bytes == len(data)
        assert check(store).whole
        assert not (tmp_path / "served" / "blobs").exists()
    backup(Store.open(tmp_path / "served", blobs=PLACE), tmp_path / "hub.tar")
    other = Store.open(tmp_path / "other", blobs="s3://adapters/other")
    restore(other, tmp_path / "hub.tar")
    assert check(other).whole


def test_a_bucket_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"s3://nobodys/hub.*Make the bucket"):
        open_blobs("s3://nobodys/hub")
    done = CliRunner().invoke(
        adapt, ["hub", "serve", "--data", str(tmp_path / "hub"), "--blobs", "s3://nobodys"]
    )
    assert done.exit_code == 2
    assert "s3://nobodys" in done.output
    assert "Traceback" not in done.output


def test_keys_that_are_wrong(bucket: str) -> None:
    assert asking.post(f"{bucket}/moto-api/reset-auth", content=b"0").status_code == 200
    try:
        with pytest.raises(StorageError, match="AWS_ACCESS_KEY_ID"):
            open_blobs(PLACE)
    finally:
        asking.post(f"{bucket}/moto-api/reset-auth", content=b"1000000")


def test_s3_that_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "adapthub.hub.storage.object_blobs._RETRIES",
        {"max_retries": 0, "retry_timeout": timedelta(seconds=2)},
    )
    with s3(monkeypatch):
        blobs = open_blobs(PLACE)
    with pytest.raises(StorageError, match=r"s3://adapters/hub failed"):
        blobs.size("0" * 64)
