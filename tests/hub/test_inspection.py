"""How much of what strangers send is read and parsed: each header once, none that is larger than an adapter's may be."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from adapthub.adapters.admission import CONFIG, WEIGHTS
from adapthub.adapters.errors import AdmissionError
from adapthub.adapters.files import sha256_bytes
from adapthub.adapters.safetensors_header import check_header
from adapthub.hub import inspection
from adapthub.hub.headers import Recent
from adapthub.hub.inspection import MAX_HEADER_BYTES, adapter_in, inspect_tree
from adapthub.hub.trees import Blob
from tests.hub.adapters import write_adapter


class Files:
    """Files in memory, and how many bytes of each were read."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        self.tree = {path: Blob(sha256_bytes(data), len(data)) for path, data in contents.items()}
        self._data = {self.tree[path].sha256: data for path, data in contents.items()}
        self.read_bytes: Counter[str] = Counter()

    def read(self, blob: Blob, offset: int, length: int) -> bytes:
        self.read_bytes[blob.sha256] += length
        return self._data[blob.sha256][offset : offset + length]


def weights(tensors: int, *, first: int = 0, metadata: int = 0) -> bytes:
    """A safetensors file of so many empty tensors and bytes of metadata."""
    entries = {
        f"t{first + n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(tensors)
    }
    header = json.dumps({"__metadata__": {"x": "x" * metadata}, **entries}, separators=(",", ":")).encode()
    return len(header).to_bytes(8, "little") + header


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_headers", "_adapters"):
        kept = getattr(inspection, name)
        monkeypatch.setattr(inspection, name, Recent(kept._most, kept._size))


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each header that is parsed."""
    found: list[int] = []

    def counted(header: bytes, size: int, where: str) -> object:
        found.append(len(header))
        return check_header(header, size, where)

    monkeypatch.setattr(inspection, "check_header", counted)
    return found


def test_a_header_is_parsed_once(parsed: list[int]) -> None:
    files = Files({f"{n}.safetensors": weights(20, first=n) for n in range(5)})
    for _ in range(3):
        inspect_tree({**files.tree, "README.md": files.tree["0.safetensors"]}, files.read, where="a/b")
    assert len(parsed) == 5


def test_an_adapter_is_looked_at_once(parsed: list[int], tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "made")
    files = Files({name: (adapter.path / name).read_bytes() for name in adapter.files})
    first = adapter_in(files.tree, files.read, where="a/b")
    assert first is not None
    assert (first.digest, first.spans) == (adapter.digest, adapter.spans)
    read = dict(files.read_bytes)
    assert adapter_in(files.tree, files.read, where="c/d") == first
    assert (len(parsed), files.read_bytes) == (1, read)
    config = files.tree[CONFIG]
    other = Files({CONFIG: b"{}", WEIGHTS: (adapter.path / WEIGHTS).read_bytes()})
    assert other.tree[CONFIG] != config
    with pytest.raises(AdmissionError):
        adapter_in(other.tree, other.read, where="a/b")


@pytest.mark.parametrize(
    "data",
    [weights(30_000), weights(1, metadata=MAX_HEADER_BYTES)],
    ids=["tensors", "metadata"],
)
def test_a_header_that_is_too_large_is_not_read(parsed: list[int], data: bytes) -> None:
    files = Files({"adapter_model.safetensors": data})
    with pytest.raises(AdmissionError, match="a header of"):
        inspect_tree(files.tree, files.read, where="a/b")
    assert parsed == []
    assert sum(files.read_bytes.values()) == 8


def test_many_tensors_in_little_room_are_not_parsed(
    parsed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "MAX_TENSORS", 10)
    files = Files({"adapter_model.safetensors": weights(11)})
    with pytest.raises(AdmissionError, match="more than 10 tensors"):
        inspect_tree(files.tree, files.read, where="a/b")
    assert parsed == []


@pytest.mark.parametrize("tensors", [0, 1])
def test_of_many_files_so_much_is_parsed(parsed: list[int], tensors: int) -> None:
    files = Files({f"{n}.safetensors": weights(tensors, first=n, metadata=10**6 + n) for n in range(10)})
    for _ in range(2):
        with pytest.raises(AdmissionError, match="bytes of headers"):
            inspect_tree(files.tree, files.read, where="a/b")
    assert sum(parsed) < inspection.MAX_TREE_HEADER_BYTES + MAX_HEADER_BYTES


def test_the_largest_adapters_that_there_are_have_room() -> None:
    """A LoRA on every linear layer of 126 layers: bytes as PEFT names them."""
    modules = ["self_attn.q_proj", "mlp.gate_proj"]
    names = [
        f"base_model.model.model.layers.{layer}.{modules[n % 2]}.lora_{half}.weight"
        for layer in range(126)
        for n in range(7)
        for half in "AB"
    ]
    entry = '"{}":{{"dtype":"BF16","shape":[256,16384],"data_offsets":[1000000000,1000000000]}}'
    assert 4 * len(",".join(map(entry.format, names))) < MAX_HEADER_BYTES


def test_what_is_remembered_is_bounded() -> None:
    kept = Recent(10, len)
    for text in ("aaaa", "bbbb", "cccc"):
        kept.put(text[0], text)
    assert [kept.get(key) for key in "abc"] == [None, "bbbb", "cccc"]
    kept.put("d", "x" * 11)
    assert kept.get("d") is None
    kept.put("e", "e")
    assert kept.get("e") == "e"
