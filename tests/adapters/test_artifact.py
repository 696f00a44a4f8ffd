"""Artifacts against real PEFT: its folders are read here, and ours load in it with equal outputs."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from adapthub.adapters.artifact import Artifact, write_artifact
from adapthub.adapters.description import digest_of
from adapthub.adapters.errors import (
    AdapterNotFound,
    AdmissionError,
    Conflict,
    IntegrityError,
    MissingDependency,
    StorageError,
    UnsupportedAdapter,
)
from adapthub.adapters.files import sha256_bytes
from tests.adapters.saves import LABELS, METHODS, adapted, loaded_by_peft, logits, manifest, token_classifier


@pytest.mark.parametrize("method", METHODS)
def test_a_folder_that_peft_wrote_is_read_as_it_is(saved_by_peft: dict[str, Path], method: str) -> None:
    artifact = Artifact.read(saved_by_peft[method])
    theirs = load_file(saved_by_peft[method] / "adapter_model.safetensors")
    ours = artifact.tensors()
    assert ours.keys() == theirs.keys()
    assert all(
        torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in theirs
    )
    assert artifact.manifest is None
    assert artifact.method == ("prefix" if method == "prefix" else "lora")
    assert artifact.task == "token-classification"
    assert artifact.labels is None
    assert artifact.base_fingerprint is None
    assert artifact.rank == (None if method == "prefix" else 8)
    assert artifact.size == sum(path.stat().st_size for path in saved_by_peft[method].iterdir())


@pytest.mark.parametrize("method", METHODS)
def test_what_is_written_loads_in_plain_peft_with_equal_outputs(tmp_path: Path, method: str) -> None:
    model = adapted(method)
    written = write_artifact(
        tmp_path / "ours", peft_model=model, manifest=manifest(method=method), card="# ours\n"
    )
    assert torch.equal(logits(loaded_by_peft(tmp_path / "ours")), logits(model))
    assert not torch.equal(logits(model), logits(token_classifier()))
    assert written.path == tmp_path / "ours"
    assert written == Artifact.read(tmp_path / "ours")
    assert written.manifest is not None
    assert written.manifest.method == method
    assert written.labels == LABELS
    assert written.base_ref == "acme/base"
    assert written.config["base_model_name_or_path"] == "acme/base"


@pytest.mark.parametrize("method", METHODS)
def test_tensors_are_those_that_peft_saves(
    saved_by_peft: dict[str, Path], tmp_path: Path, method: str
) -> None:
    written = write_artifact(tmp_path / "ours", peft_model=adapted(method), manifest=manifest(), card="")
    ours, theirs = written.tensors(), load_file(saved_by_peft[method] / "adapter_model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_digest_rule_in_golden_bytes(tmp_path: Path) -> None:
    """The identity of an adapter may never change: these digests were computed with sha256sum."""
    config = b'{"peft_type": "LORA", "r": 4}\n'
    # 8 bytes of length, an empty header padded to 8 bytes, no data
    weights = (8).to_bytes(8, "little") + b"{}      "
    (tmp_path / "adapter_config.json").write_bytes(config)
    (tmp_path / "adapter_model.safetensors").write_bytes(weights)
    (tmp_path / "README.md").write_bytes(b"hello\n")
    artifact = Artifact.read(tmp_path)
    assert (
        artifact.files["README.md"].sha256
        == "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
    )
    assert artifact.digest == GOLDEN
    assert artifact.tensors() == {}


GOLDEN = "sha256:de94832e5f3114d6881b95d595f33460231ba7a3703ecab0dc4bc664146800ab"


def test_the_digest_depends_on_every_name_and_byte() -> None:
    files = {"a": "0" * 64, "b": "1" * 64}
    others = [{"a": "0" * 64}, {"a": "1" * 64, "b": "0" * 64}, {"a": "0" * 64, "c": "1" * 64}]
    assert digest_of(files) == digest_of(dict(reversed(files.items())))
    assert len({digest_of(files), *map(digest_of, others)}) == 4


def test_equal_adapters_get_equal_digests(tmp_path: Path) -> None:
    """PEFT writes target_modules, a set, in an order that changes with the process; here it is sorted."""
    first = write_artifact(tmp_path / "first", peft_model=adapted("lora"), manifest=manifest(), card="")
    second = write_artifact(tmp_path / "second", peft_model=adapted("lora"), manifest=manifest(), card="")
    assert first.digest == second.digest
    assert first.config["target_modules"] == sorted(first.config["target_modules"])
    assert len(first.config["target_modules"]) > 2


def test_a_config_and_tensors_without_a_model(saved_by_peft: dict[str, Path], tmp_path: Path) -> None:
    plain = Artifact.read(saved_by_peft["dora"])
    written = write_artifact(
        tmp_path / "ours", config=plain.config, tensors=plain.tensors(), manifest=manifest(), card="# card\n"
    )
    assert written.config == {**plain.config, "base_model_name_or_path": "acme/base"}
    ours, theirs = written.tensors(), plain.tensors()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_tensors_that_share_memory_are_written_apart(saved_by_peft: dict[str, Path], tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(3, 4)
    tensors = {"a": whole, "b": whole.t(), "c": whole[1:], "d": torch.tensor(3.0, dtype=torch.bfloat16)}
    config = Artifact.read(saved_by_peft["lora"]).config
    read = write_artifact(
        tmp_path / "x", config=config, tensors=tensors, manifest=manifest(), card=""
    ).tensors()
    assert all(
        torch.equal(read[name], tensors[name]) and read[name].dtype == tensors[name].dtype for name in tensors
    )


def test_a_model_or_tensors_but_not_both_or_half(tmp_path: Path, saved_by_peft: dict[str, Path]) -> None:
    config = Artifact.read(saved_by_peft["lora"]).config
    wrong: tuple[dict[str, Any], ...] = (
        {},
        {"config": config},
        {"tensors": {}},
        {"peft_model": adapted("lora"), "config": config, "tensors": {}},
        {"peft_model": adapted("lora"), "tensors": {}},
    )
    for source in wrong:
        with pytest.raises(TypeError, match="either peft_model, or config and tensors"):
            write_artifact(tmp_path / "x", **source, manifest=manifest(), card="")
    assert list(tmp_path.iterdir()) == []


def test_tensors_come_from_the_bytes_that_were_verified(plain_folder: Path) -> None:
    weights = plain_folder / "adapter_model.safetensors"
    expected = load_file(weights)
    artifact = Artifact.read(plain_folder)
    save_file({name: torch.zeros_like(tensor) for name, tensor in expected.items()}, weights)
    first = artifact.tensors()
    assert all(torch.equal(first[name], expected[name]) for name in expected)
    with pytest.raises(IntegrityError, match="changed since it was verified"):
        artifact.tensors()


def test_every_call_owns_its_tensors(plain_folder: Path) -> None:
    artifact = Artifact.read(plain_folder)
    first = artifact.tensors()
    for tensor in first.values():
        tensor.zero_()
    assert any(tensor.any() for tensor in artifact.tensors().values())


def test_a_dropped_artifact_keeps_no_bytes(plain_folder: Path) -> None:
    artifact = Artifact.read(plain_folder)
    alive = weakref.ref(artifact)
    held = artifact._unused_weights
    artifact.tensors()
    assert held == []
    del artifact
    gc.collect()
    assert alive() is None


def test_reading_a_plain_folder_imports_no_pydantic_and_no_torch(plain_folder: Path) -> None:
    """A bare GPU image reads adapters, and `adapt show` answers at once."""
    script = (
        "import sys\n"
        "from adapthub.adapters.artifact import Artifact\n"
        "artifact = Artifact.read(sys.argv[1])\n"
        "print(artifact.digest, [name for name in ('pydantic', 'torch', 'peft') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(plain_folder)], check=True, capture_output=True, text=True
    )
    assert done.stdout.split(maxsplit=1) == [Artifact.read(plain_folder).digest, "[]\n"]


def test_a_manifest_without_pydantic_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_artifact(tmp_path / "a", peft_model=adapted("lora"), manifest=manifest(), card="")
    monkeypatch.delitem(sys.modules, "adapthub.adapters.manifest")
    monkeypatch.setitem(sys.modules, "pydantic", None)
    with pytest.raises(MissingDependency, match="pip install pydantic"):
        Artifact.read(tmp_path / "a")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact with a manifest."""
    folder = tmp_path_factory.mktemp("whole") / "a"
    write_artifact(folder, peft_model=adapted("prefix"), manifest=manifest(), card="# card\n")
    return folder


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_any_edit_of_any_file_is_noticed(whole: Path, data: st.DataObject) -> None:
    """With a manifest every byte is covered; its own bytes are covered by the digest that a hub knows."""
    digest = Artifact.read(whole).digest
    path = whole / data.draw(st.sampled_from(sorted(file.name for file in whole.iterdir())))
    before = path.read_bytes()
    position = data.draw(st.integers(0, len(before)))
    removed, inserted = data.draw(st.integers(0, 3)), data.draw(st.binary(max_size=3))
    after = before[:position] + inserted + before[position + removed :]
    assume(after != before)
    path.write_bytes(after)
    try:
        with pytest.raises((IntegrityError, AdmissionError, UnsupportedAdapter)) as refused:
            Artifact.read(whole, expected_digest=digest)
    finally:
        path.write_bytes(before)
    assert "\n" not in str(refused.value)


def test_expected_digest(plain_folder: Path) -> None:
    digest = Artifact.read(plain_folder).digest
    assert Artifact.read(plain_folder, expected_digest=digest).digest == digest
    (plain_folder / "README.md").write_text("changed")
    with pytest.raises(IntegrityError, match=digest):
        Artifact.read(plain_folder, expected_digest=digest)


@pytest.mark.parametrize("name", ["README.md", "adapter_config.json", "adapter_model.safetensors"])
def test_a_changed_file_is_named(tmp_path: Path, name: str) -> None:
    write_artifact(tmp_path / "a", peft_model=adapted("lora"), manifest=manifest(), card="# card\n")
    data = bytearray((tmp_path / "a" / name).read_bytes())
    data[-2] ^= 1
    (tmp_path / "a" / name).write_bytes(bytes(data))
    with pytest.raises((IntegrityError, AdmissionError), match=name):
        Artifact.read(tmp_path / "a")


def test_missing_and_added_files_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    write_artifact(
        folder, peft_model=adapted("lora"), manifest=manifest(), card="#\n", extra={"loss.png": b"\x89PNG"}
    )
    (folder / "notes.md").write_text("mine")
    with pytest.raises(IntegrityError, match=r"notes\.md"):
        Artifact.read(folder)
    (folder / "notes.md").unlink()
    (folder / "loss.png").unlink()
    with pytest.raises(IntegrityError, match=r"loss\.png"):
        Artifact.read(folder)


def test_a_manifest_that_lists_another_config_type_is_still_policed(tmp_path: Path) -> None:
    """Digests that fit do not make a hostile configuration admissible."""
    folder = tmp_path / "a"
    write_artifact(folder, peft_model=adapted("lora"), manifest=manifest(), card="#\n")
    config = json.loads((folder / "adapter_config.json").read_bytes())
    data = json.dumps({**config, "trust_remote_code": True}).encode()
    (folder / "adapter_config.json").write_bytes(data)
    document = json.loads((folder / "adapthub.json").read_bytes())
    document["files"]["adapter_config.json"] = sha256_bytes(data)
    (folder / "adapthub.json").write_text(json.dumps(document))
    with pytest.raises(AdmissionError, match="trust_remote_code"):
        Artifact.read(folder)


def test_other_peft_types_are_named(plain_folder: Path) -> None:
    config = json.loads((plain_folder / "adapter_config.json").read_bytes())
    (plain_folder / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "VERA"}))
    with pytest.raises(UnsupportedAdapter, match="VERA"):
        Artifact.read(plain_folder)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(AdapterNotFound, match="nowhere"):
        Artifact.read(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["evil.pkl", "../escape.md", "adapthub.json", "README.md"])
def test_an_extra_file_outside_the_policy_writes_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(AdmissionError, match=name):
        write_artifact(
            tmp_path / "a", peft_model=adapted("lora"), manifest=manifest(), card="", extra={name: b"data"}
        )
    assert list(tmp_path.iterdir()) == []


def test_what_would_not_be_admitted_is_never_published(
    tmp_path: Path, saved_by_peft: dict[str, Path]
) -> None:
    config = {**Artifact.read(saved_by_peft["lora"]).config, "rank_pattern": {"(a+)+b": 4}}
    with pytest.raises(AdmissionError, match="rank_pattern"):
        write_artifact(tmp_path / "a", config=config, tensors={}, manifest=manifest(), card="")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept_unless_replaced(tmp_path: Path) -> None:
    target = tmp_path / "a"
    first = write_artifact(target, peft_model=adapted("lora"), manifest=manifest(), card="first\n")
    with pytest.raises(Conflict, match="already exists"):
        write_artifact(target, peft_model=adapted("lora"), manifest=manifest(), card="second\n")
    assert Artifact.read(target) == first
    second = write_artifact(
        target, peft_model=adapted("lora"), manifest=manifest(), card="second\n", replace=True
    )
    assert Artifact.read(target) == second != first
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("failing", range(5))
def test_a_disk_that_fills_up_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """The n-th write fails: one write a file, and the folder before is still whole."""
    model = adapted("lora")
    target = tmp_path / "a"
    before = write_artifact(target, peft_model=model, manifest=manifest(), card="before\n")
    real, calls = Path.write_bytes, iter(range(100))

    def write_bytes(path: Path, data: bytes) -> int:
        if next(calls) == failing:
            real(path, data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(StorageError, match="No space left on device"):
        write_artifact(
            target, peft_model=model, manifest=manifest(), card="after\n", extra={"l.png": b"x"}, replace=True
        )
    monkeypatch.undo()
    assert Artifact.read(target) == before
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_of_git_is_no_part_of_the_adapter(plain_folder: Path) -> None:
    digest = Artifact.read(plain_folder).digest
    (plain_folder / ".gitattributes").write_text("*.safetensors filter=lfs")
    (plain_folder / ".git").mkdir()
    assert Artifact.read(plain_folder).digest == digest


def test_a_moved_folder_is_the_same_adapter(plain_folder: Path, tmp_path: Path) -> None:
    before = Artifact.read(plain_folder)
    after = Artifact.read(shutil.move(plain_folder, tmp_path / "moved"))
    assert after.digest == before.digest
    assert after != before
