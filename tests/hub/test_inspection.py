"""How much of what strangers send is read and parsed: each header once, none that is larger than an adapter's may be."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from adapthub.adapters.admission import CONFIG, WEIGHTS
from adapthub.adapters.errors import AdmissionError
from adapthub.adapters.files import sha256_bytes
from adapthub.adapters.safetensors_header import check_header
from adapthub.hub import inspection
from adapthub.hub.headers import Recent
from adapthub.hub.inspection import MAX_HEADER_BYTES, Read, adapter_in, inspect_tree
from adapthub.hub.trees import Blob, Tree
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

    def counted(header: bytes, size: int, where: str, *, most_other: int) -> object:
        found.append(len(header))
        return check_header(header, size, where, most_other=most_other)

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


def test_a_header_that_is_too_large_is_not_read(parsed: list[int]) -> None:
    files = Files({"adapter_model.safetensors": weights(1, metadata=MAX_HEADER_BYTES)})
    with pytest.raises(AdmissionError, match="a header of"):
        inspect_tree(files.tree, files.read, where="a/b")
    assert parsed == []
    assert sum(files.read_bytes.values()) == 8


@pytest.mark.parametrize("sizes", [[11], [6, 5]])
def test_many_tensors_in_little_room_are_not_parsed(
    parsed: list[int], monkeypatch: pytest.MonkeyPatch, sizes: list[int]
) -> None:
    """Of one file, or of all."""
    monkeypatch.setattr(inspection, "MAX_TENSORS", 10)
    files = Files({f"{n}.safetensors": weights(size, first=n) for n, size in enumerate(sizes)})
    for _ in range(2):
        with pytest.raises(AdmissionError, match="more than 10 tensors"):
            inspect_tree(files.tree, files.read, where="a/b")
    assert len(parsed) == len(sizes) - 1


@pytest.mark.parametrize("tensors", [0, 1])
def test_of_many_files_so_much_is_parsed(parsed: list[int], tensors: int) -> None:
    files = Files({f"{n}.safetensors": weights(tensors, first=n, metadata=500_000 + n) for n in range(20)})
    for _ in range(2):
        with pytest.raises(AdmissionError, match="bytes of headers|a header of"):
            inspect_tree(files.tree, files.read, where="a/b")
    assert sum(parsed) <= MAX_HEADER_BYTES


def test_headers_that_need_a_json_parser_have_less_room(parsed: list[int]) -> None:
    spaced = json.dumps(
        {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(9_000)}
    )
    files = Files({"adapter_model.safetensors": len(spaced).to_bytes(8, "little") + spaced.encode()})
    with pytest.raises(AdmissionError, match="not as safetensors writes it"):
        inspect_tree(files.tree, files.read, where="a/b")
    inspect_tree(*_tree(weights(9_000)), where="a/b")


def _tree(data: bytes) -> tuple[Tree, Read]:
    files = Files({"adapter_model.safetensors": data})
    return files.tree, files.read


def test_the_largest_adapters_that_there_are_have_room() -> None:
    """A LoRA on every expert and every projection of 48 layers of 128 experts, named as PEFT does."""
    modules = [
        f"mlp.experts.{expert}.{name}_proj" for expert in range(128) for name in ("gate", "up", "down")
    ]
    modules += [f"self_attn.{name}_proj" for name in "qkvo"]
    tensors = {
        f"base_model.model.model.layers.{layer}.{module}.lora_{half}.weight": torch.zeros(
            1, 1, dtype=torch.bfloat16
        )
        for layer in range(48)
        for module in modules
        for half in "AB"
    }
    data = save(tensors, metadata={"format": "pt"})
    config = json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["q_proj"]}).encode()
    files = Files({WEIGHTS: data, CONFIG: config})
    found = adapter_in(files.tree, files.read, where="a/b")
    assert found is not None
    assert found.shapes.keys() == tensors.keys()
    room = MAX_HEADER_BYTES - len(tensors) * len("000000000")  # offsets of gigabytes are longer
    assert int.from_bytes(data[:8], "little") < room


def test_what_is_remembered_is_bounded() -> None:
    kept = Recent(10, len)
    for text in ("aaaa", "bbbb", "cccc"):
        kept.put(text[0], text)
    assert [kept.get(key) for key in "abc"] == [None, "bbbb", "cccc"]
    kept.put("d", "x" * 11)
    assert kept.get("d") is None
    kept.put("e", "e")
    assert kept.get("e") == "e"
