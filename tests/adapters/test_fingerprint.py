"""A base's fingerprint: what it covers, what it ignores, and when its cache is not used."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from adapthub.adapters import fingerprint as module
from adapthub.adapters.errors import BaseNotFound
from adapthub.adapters.files import sha256_file
from adapthub.adapters.fingerprint import CACHE_NAME, Fingerprint, fingerprint
from adapthub.adapters.home import home

Edit = Callable[[Path], object]


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "base", ignore=shutil.ignore_patterns(CACHE_NAME)))


def edit_json(name: str, **changes: object) -> Edit:
    def edit(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, **changes}))

    return edit


def edit_weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["embeddings.LayerNorm.bias"] = tensors["embeddings.LayerNorm.bias"] + 1
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def grow_weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["extra"] = torch.zeros(3)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("edit", "parts"),
    [
        (edit_json("config.json", hidden_dropout_prob=0.2), {"configuration"}),
        (edit_json("config.json", transformers_version="1", dtype="bfloat16", _name_or_path="x"), set()),
        (edit_json("tokenizer.json", added_tokens=[]), {"tokenizer"}),
        (edit_json("tokenizer.json", truncation={"max_length": 3}, padding=None), set()),
        (edit_weights, {"weights"}),
        (grow_weights, {"weights", "shapes"}),
    ],
)
def test_each_part_sees_its_own_change_and_no_other(base: Path, edit: Edit, parts: set[str]) -> None:
    before = fingerprint(base)
    edit(base)
    after = fingerprint(base)
    changed = {part for part, value in before.to_dict().items() if value != after.to_dict()[part]}
    assert changed == parts
    assert [line.split()[0] for line in before.difference(after)] == [
        part for part in before.to_dict() if part in parts
    ]
    assert (before.digest == after.digest) == (not parts)


def test_one_weight_file_has_its_own_sha256(base: Path) -> None:
    assert fingerprint(base).weights == sha256_file(base / "model.safetensors")


def test_shards_count_together_in_name_order(base: Path) -> None:
    whole = fingerprint(base)
    tensors = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"model-1-of-2.safetensors": names[:5], "model-2-of-2.safetensors": names[5:]}
    for file, kept in shards.items():
        save_file({name: tensors[name] for name in kept}, base / file, {"format": "pt"})
    index = {"weight_map": {name: file for file, kept in shards.items() for name in kept}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    sharded = fingerprint(base)
    assert sharded.shapes == whole.shapes
    assert sharded.weights != whole.weights
    (base / "model-2-of-2.safetensors").unlink()
    with pytest.raises(BaseNotFound, match=r"model-2-of-2\.safetensors"):
        fingerprint(base)


def test_an_index_may_not_name_files_elsewhere(base: Path) -> None:
    (base / "model.safetensors").unlink()
    (base / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../other.safetensors"}})
    )
    with pytest.raises(BaseNotFound, match="outside its folder"):
        fingerprint(base)


def test_a_base_without_a_tokenizer_says_none(base: Path) -> None:
    (base / "tokenizer.json").unlink()
    first = fingerprint(base)
    assert first.tokenizer is None
    assert first == Fingerprint.from_dict(first.to_dict())


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    reads: list[str] = []
    real = module._weights

    def counted(folder: Path) -> str:
        reads.append(folder.name)
        return real(folder)

    monkeypatch.setattr(module, "_weights", counted)
    return reads


def test_a_second_look_reads_nothing(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = count_reads(monkeypatch)
    assert fingerprint(base) == fingerprint(base)
    assert (base / CACHE_NAME).is_file()
    assert len(reads) == 1


def test_a_change_that_keeps_size_and_modification_time_is_seen(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint(base)
    weights = base / "model.safetensors"
    status = weights.stat()
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert weights.stat().st_mtime_ns == status.st_mtime_ns
    assert fingerprint(base).difference(before)[0].startswith("weights differ")


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff", b'{"files": {}, "fingerprint": {}}'])
def test_a_broken_cache_is_no_cache(base: Path, content: bytes) -> None:
    first = fingerprint(base)
    (base / CACHE_NAME).write_bytes(content)
    assert fingerprint(base) == first


def test_a_cache_with_a_false_fingerprint_of_the_right_files_is_not_believed(base: Path) -> None:
    first = fingerprint(base)
    record = json.loads((base / CACHE_NAME).read_text())
    record["fingerprint"]["weights"] = "not a digest"
    (base / CACHE_NAME).write_text(json.dumps(record))
    assert fingerprint(base) == first


def test_a_folder_that_is_not_ours_stays_clean(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = count_reads(monkeypatch)
    fingerprint(base, beside=False)
    fingerprint(base, beside=False)
    assert not (base / CACHE_NAME).exists()
    assert len(list((home() / "bases").glob("*.json"))) == 1
    assert len(reads) == 1


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module._weights

    def interrupted(folder: Path) -> str:
        digest = real(folder)
        edit_weights(folder)
        return digest

    monkeypatch.setattr(module, "_weights", interrupted)
    stale = fingerprint(base)
    monkeypatch.setattr(module, "_weights", real)
    assert fingerprint(base).weights != stale.weights
    assert fingerprint(base).weights == sha256_file(base / "model.safetensors")


digests = st.text("0123456789abcdef", min_size=64, max_size=64)
fingerprints = st.builds(Fingerprint, digests, st.none() | digests, digests, digests)


@given(fingerprints, fingerprints)
def test_difference_is_empty_exactly_for_equals(left: Fingerprint, right: Fingerprint) -> None:
    assert (left.difference(right) == []) == (left == right) == (left.digest == right.digest)
    assert Fingerprint.from_dict(left.to_dict()) == left


@given(fingerprints, st.sampled_from(["configuration", "tokenizer", "shapes", "weights"]), st.data())
def test_records_with_a_bad_part_are_refused(good: Fingerprint, part: str, data: st.DataObject) -> None:
    record: dict[str, object] = dict(good.to_dict())
    bad = data.draw(st.text(max_size=63) | st.integers() | st.just("A" * 64))
    with pytest.raises(ValueError, match=f"the fingerprint's {part} is not a sha256"):
        Fingerprint.from_dict({**record, part: bad})
    del record[part]
    with pytest.raises(ValueError, match="has the parts"):
        Fingerprint.from_dict(record)
    with pytest.raises(ValueError, match="has the parts"):
        Fingerprint.from_dict({**good.to_dict(), "more": "x"})
