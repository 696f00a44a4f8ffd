"""The real client, huggingface_hub with hf_xet, uploads to the facade; what is stored is what was on its disk."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.hub.xet import client
from tests.hub.xet.stub import Stub, running


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[Stub]:
    with running(tmp_path / "xet") as stub:
        yield stub
        assert stub.incoming() == []


def upload(stub: Stub, home: Path, *paths: Path) -> subprocess.CompletedProcess[str]:
    """Upload from a process whose caches are all below `home`."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {
        "HF_HOME": str(home),
        "HF_XET_CACHE": str(home / "xet"),
        "HF_ENDPOINT": stub.url,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    return subprocess.run(
        [sys.executable, str(client.__file__), stub.url, *map(str, paths)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def uploaded(stub: Stub, home: Path, *paths: Path) -> None:
    """Upload, and compare what the hub has stored with the files."""
    done = upload(stub, home, *paths)
    assert done.returncode == 0, done.stderr
    for path in paths:
        data = path.read_bytes()
        assert stub.committed[path.name] == hashlib.sha256(data).hexdigest()
        assert stub.store.files[stub.committed[path.name]] == data


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_large_file(stub: Stub, tmp_path: Path) -> None:
    """Of many chunks, so that the hash of its xorb is a tree of several levels."""
    uploaded(stub, tmp_path / "home", write(tmp_path / "a.bin", random.Random(0).randbytes(20_000_000)))
    assert stub.xorbs_received() == 1
    assert stub.store.stores == [("acme/ner", stub.committed["a.bin"])]


def test_several_files(stub: Stub, tmp_path: Path) -> None:
    """Small ones share a xorb; two are equal; floats are packed by groups of bytes."""
    random_bytes = random.Random(1).randbytes
    floats = np.random.default_rng(0).standard_normal(300_000).astype(np.float32) * np.float32(0.02)
    uploaded(
        stub,
        tmp_path / "home",
        write(tmp_path / "one", random_bytes(1)),
        write(tmp_path / "small", b"text " * 1000),
        write(tmp_path / "same", b"text " * 1000),
        write(tmp_path / "zeros", bytes(1_000_000)),
        write(tmp_path / "floats", floats.tobytes()),
        write(tmp_path / "odd", floats.tobytes()[:99_999]),
    )
    packed = [path.read_bytes() for path in stub.root.rglob("*") if path.is_file() and len(path.name) == 64]
    schemes = {scheme for data in packed for scheme in schemes_of(data)}
    assert 2 in schemes


def schemes_of(sealed: bytes) -> Iterator[int]:
    count = int.from_bytes(sealed[-4:], "little")
    at = 0
    for _ in range(count):
        yield sealed[at + 4]
        at += 8 + int.from_bytes(sealed[at + 1 : at + 4], "little")


def test_a_second_version_sends_what_is_new(stub: Stub, tmp_path: Path) -> None:
    """Its terms refer to xorbs of the first upload, by another process with the same cache, and by itself."""
    data = random.Random(2).randbytes(4_000_000)
    home = tmp_path / "home"
    uploaded(stub, home, write(tmp_path / "a.bin", data))
    first = kept_bytes(stub)
    changed = data[:2_000_000] + b"changed" + data[2_000_000:]
    uploaded(stub, home, write(tmp_path / "a.bin", changed))
    assert kept_bytes(stub) - first < 1_000_000
    uploaded(stub, tmp_path / "other-home", tmp_path / "a.bin")


def test_xorbs_that_went_are_uploaded_anew(stub: Stub, tmp_path: Path) -> None:
    """With a raised epoch, the same client, which believes that the hub has them, has another address."""
    home = tmp_path / "home"
    path = write(tmp_path / "a.bin", random.Random(3).randbytes(2_000_000))
    uploaded(stub, home, path)
    shutil.rmtree(stub.root / "1")
    stub.store.files.clear()
    stub.store.current_epoch = 2
    uploaded(stub, home, path)
    assert stub.xorbs_received() == 2
    assert [cast.split("/xet/")[1].split("/")[0] for cast in stub.casts] == ["1", "2"]


def test_xorbs_that_went_unnoticed_fail_one_upload(stub: Stub, tmp_path: Path) -> None:
    """The folder lost its files, and nobody raised the epoch: the shard is refused, and the next upload sends all."""
    home = tmp_path / "home"
    path = write(tmp_path / "a.bin", random.Random(4).randbytes(500_000))
    uploaded(stub, home, path)
    for xorb in stub.root.rglob("*"):
        if xorb.is_file():
            xorb.unlink()
    stub.store.files.clear()
    assert upload(stub, home, path).returncode != 0
    assert stub.store.files == {}
    uploaded(stub, home, path)


def test_many_clients_at_once(stub: Stub, tmp_path: Path) -> None:
    paths = [
        write(tmp_path / f"{n}.bin", random.Random(n % 3).randbytes(1_000_000 + n % 3)) for n in range(4)
    ]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda n: uploaded(stub, tmp_path / f"home-{n}", paths[n]), range(4)))


def kept_bytes(stub: Stub) -> int:
    return sum(path.stat().st_size for path in stub.root.rglob("*") if path.is_file())
