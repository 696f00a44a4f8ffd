"""What strangers make to hurt a hub: refused by name, in bounded memory, by a server in a process of its own.

That it takes no longer than it may is counted in what is read and parsed (test_inspection) and timed in benchmarks.hub.
"""

from __future__ import annotations

import base64
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

from adapthub.hub.accounts import create_token
from adapthub.hub.checking import check
from adapthub.hub.store import Store
from tests import asking
from tests.hub.server.test_bad_input import CONFIG, header, one

pytestmark = pytest.mark.slow
_GROWTH = 300 * 2**20  # bytes; one text of 45 MiB is held a few times over

CONFIGS: dict[str, dict[str, Any]] = {
    "r must be": {"r": 10**9},
    "rank_pattern": {"rank_pattern": {"(a+)+$": 8}},
    "exclude_modules": {"exclude_modules": "(.*)*x"},
    "adapters": {"adapters": {"0": "/etc"}},
    "prompt_tuning_init_state_dict_path": {"prompt_tuning_init_state_dict_path": "/etc/passwd"},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HfApi, int, Path]]:
    """A client, the process that serves it, and its folder."""
    data = tmp_path_factory.mktemp("hostile") / "hub"
    with Store.open(data).database.writing() as session:
        token = create_token(session, "ada", "write")[1]
    command = [sys.executable, "-m", "adapthub.cli.main", "hub", "serve", "--port", "0", "--json"]
    with subprocess.Popen([*command, "--data", str(data)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        document = ""
        while not document.endswith("}\n"):
            document += process.stdout.readline()
        try:
            api = HfApi(endpoint=json.loads(document)["address"], token=token)
            yield api, process.pid, data
        finally:
            process.terminate()


def most_memory(process: int) -> int:
    """The most bytes that a process has held at once."""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


def refused(server: tuple[HfApi, int, Path], name: str, data: bytes) -> str:
    """Commit a file; what was said, once it is seen that the server is as large and the hub as it was."""
    api, process, _ = server
    api.create_repo("ada/ner", exist_ok=True)
    before = most_memory(process)
    with pytest.raises(HfHubHTTPError) as caught:
        api.create_commit("ada/ner", [CommitOperationAdd(name, data)], commit_message="hostile")
    assert caught.value.response.status_code in (400, 413, 422), caught.value
    assert most_memory(process) - before < _GROWTH
    assert api.list_repo_files("ada/ner") == []
    return str(caught.value)


@pytest.mark.parametrize("named", CONFIGS)
def test_configurations(server: tuple[HfApi, int, Path], named: str) -> None:
    document = json.dumps({**CONFIG, **CONFIGS[named]}).encode()
    assert named in refused(server, "adapter_config.json", document)


def test_a_header_of_many_empty_tensors(server: tuple[HfApi, int, Path]) -> None:
    """700,000 tensors in 45 MB of header, which took safetensors 73 s to load."""
    entry = '"{}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
    text = ("{" + ",".join(entry.format(n) for n in range(700_000)) + "}").encode()
    assert "header" in refused(server, "adapter_model.safetensors", len(text).to_bytes(8, "little") + text)


def test_a_header_of_many_tensors_in_little_room(server: tuple[HfApi, int, Path]) -> None:
    entry = '"{}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
    text = ("{" + ",".join(entry.format(n) for n in range(120_000)) + "}").encode()
    said = refused(server, "adapter_model.safetensors", len(text).to_bytes(8, "little") + text)
    assert "tensors" in said or "header" in said


@pytest.mark.parametrize(
    "weights",
    [
        header({"a": one([2, 2], 16), "b": {**one([2, 2], 32), "data_offsets": [8, 24]}}, b"\0" * 24),
        header({"a": {**one([2, 2], 16), "data_offsets": [8, 24]}}, b"\0" * 24),
        header({"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
        header({"a": one([2**62, 2**62], 4)}, b"\0" * 4),
        header({"a": one([1] * 1_000, 4)}, b"\0" * 4),
        header({"__metadata__": {"a": 1}, "b": one([1], 4)}, b"\0" * 4),
        b"\xff" * 7 + b"\x7f" + b"{}",
        b"\x04\0\0\0\0\0\0\0" + b"\xff\xfe{}",
        b"\x10\0\0\0\0\0\0\0" + b"[" * 16,
    ],
    ids=["overlap", "hole", "dtype", "overflow", "sizes", "metadata", "length", "utf-8", "list"],
)
def test_weights(server: tuple[HfApi, int, Path], weights: bytes) -> None:
    assert "adapter_model.safetensors" in refused(server, "adapter_model.safetensors", weights)


def test_a_commit_that_is_too_large(server: tuple[HfApi, int, Path]) -> None:
    said = refused(server, "README.md", b"x" * (65 * 2**20))
    assert "larger" in said or "at most" in said or "bytes" in said


@pytest.mark.parametrize("path", ["/api/repos/create", "/ada/ner.git/info/lfs/objects/batch"])
def test_bodies_that_do_not_end(server: tuple[HfApi, int, Path], path: str) -> None:
    """Of documents that are parsed whole no more is kept than such a document may have."""
    api, process, _ = server
    before = most_memory(process)
    headers = {"Authorization": f"Bearer {api.token}", "Content-Type": "application/json"}
    answer = asking.post(api.endpoint + path, content=(b" " * 2**16 for _ in range(6400)), headers=headers)
    assert answer.status_code == 413
    assert most_memory(process) - before < 64 * 2**20


def test_large_texts_at_once(server: tuple[HfApi, int, Path]) -> None:
    """Four commits of 45 MiB of text took 900 MiB together."""
    api, process, _ = server
    api.create_repo("ada/large", exist_ok=True)
    text = base64.b64encode(random.Random(0).randbytes(45 * 2**20)).decode()
    header = '{"key":"header","value":{"summary":"large"}}'

    def commit(number: int) -> int:
        line = f'{{"key":"file","value":{{"path":"{number}.txt","content":"{text}"}}}}'
        url = f"{api.endpoint}/api/models/ada/large/commit/main"
        headers = {"Authorization": f"Bearer {api.token}"}
        return asking.post(url, content=f"{header}\n{line}", headers=headers, timeout=120).status_code

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(commit, range(4))) == [200] * 4
    assert most_memory(process) < 500 * 2**20


def test_the_hub_is_whole_after_all_of_it(server: tuple[HfApi, int, Path]) -> None:
    assert check(Store.open(server[2])).whole
