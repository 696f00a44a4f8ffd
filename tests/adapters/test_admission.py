"""Adapter folders: what may lie in them, and what a hostile one cannot make us read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapthub.adapters import admission
from adapthub.adapters.artifact import Artifact
from adapthub.adapters.errors import AdmissionError, StorageError


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "LICENSE",
        "loss.png",
        "tokenizer.json",
        "vocab.txt",
        "spiece.model",
        "chat_template.jinja",
        "A.JPG",
    ],
)
def test_documents_are_part_of_the_adapter(plain_folder: Path, name: str) -> None:
    (plain_folder / name).write_bytes(b"x")
    assert Artifact.read(plain_folder).files[name].size == 1


@pytest.mark.parametrize(
    "name",
    [
        "adapter_model.bin",
        "adapter_model.pt",
        "training_args.bin",
        "optimizer.pt",
        "weights.pth",
        "state.pkl",
        "model.ckpt",
        "data.npy",
        "data.npz",
        "model.joblib",
        "setup.py",
        "code.so",
        "run.sh",
        "notebook.ipynb",
        "page.html",
        "picture.svg",
        "noend",
        "model.safetensors",
        "adapter_model.safetensors.bak",
        ".hidden",
        ".env.json",
        "-rf.txt",
        "a b.txt",
        "a\nb.txt",
        "caf\u00e9.txt",
        "a\\b.txt",
        "x" * 130 + ".md",
    ],
)
def test_pickles_code_and_strange_names_are_refused_by_name(plain_folder: Path, name: str) -> None:
    (plain_folder / name).write_bytes(b"x")
    with pytest.raises(AdmissionError) as refused:
        Artifact.read(plain_folder)
    assert repr(name) in refused.value.message
    assert refused.value.hint is not None
    assert "\n" not in str(refused.value)


def test_old_weights_say_how_to_convert_them(plain_folder: Path) -> None:
    (plain_folder / "adapter_model.safetensors").rename(plain_folder / "adapter_model.bin")
    with pytest.raises(AdmissionError, match=r"adapter_model\.bin.*save it again"):
        Artifact.read(plain_folder)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_the_two_files_of_peft_must_be_there(plain_folder: Path, name: str) -> None:
    (plain_folder / name).unlink()
    with pytest.raises(AdmissionError, match=f"has no {name}"):
        Artifact.read(plain_folder)


@pytest.mark.parametrize(
    "name", ["README.md", "adapter_config.json", "adapter_model.safetensors", "extra.txt"]
)
def test_symbolic_links_are_not_followed(plain_folder: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes((plain_folder / name).read_bytes() if (plain_folder / name).exists() else b"secret")
    (plain_folder / name).unlink(missing_ok=True)
    (plain_folder / name).symlink_to(outside)
    with pytest.raises(AdmissionError, match=f"{name} is a symbolic link"):
        Artifact.read(plain_folder)


def test_a_link_that_appears_after_the_listing_is_not_followed(plain_folder: Path) -> None:
    (plain_folder / "README.md").unlink()
    (plain_folder / "README.md").symlink_to("/etc/hostname")
    with pytest.raises(StorageError, match=r"cannot read .*README\.md"):
        admission.read_file(plain_folder, "README.md")


def test_a_pipe_is_refused_and_does_not_hang(plain_folder: Path) -> None:
    os.mkfifo(plain_folder / "notes.txt")
    with pytest.raises(AdmissionError, match=r"notes\.txt is not a regular file"):
        Artifact.read(plain_folder)
    with pytest.raises(AdmissionError, match=r"notes\.txt is not a regular file"):
        admission.read_file(plain_folder, "notes.txt")


@pytest.mark.parametrize("name", ["sub.md", "checkpoint-10"])
def test_subfolders_are_refused(plain_folder: Path, name: str) -> None:
    (plain_folder / name).mkdir()
    with pytest.raises(AdmissionError, match=name):
        Artifact.read(plain_folder)


@pytest.mark.parametrize("name", sorted(admission.IGNORED - {admission.SIGNATURE}))
def test_what_git_and_downloads_leave_is_no_part(plain_folder: Path, name: str) -> None:
    before = Artifact.read(plain_folder)
    (plain_folder / name).mkdir()
    (plain_folder / name / "evil.pkl").write_bytes(b"x")
    after = Artifact.read(plain_folder)
    assert after.digest == before.digest
    assert name not in after.files


def test_a_signature_is_read_and_no_part(plain_folder: Path) -> None:
    before = Artifact.read(plain_folder)
    (plain_folder / "model.sig").write_bytes(b"{}")
    after = Artifact.read(plain_folder)
    assert (after.digest, after.signature) == (before.digest, b"{}")
    assert (before.signature, "model.sig" in after.files) == (None, False)


def test_a_signature_that_is_a_link_a_folder_or_too_large_is_refused(plain_folder: Path) -> None:
    path = plain_folder / "model.sig"
    path.symlink_to(plain_folder / "README.md")
    with pytest.raises(AdmissionError, match=r"model\.sig"):
        Artifact.read(plain_folder)
    path.unlink()
    path.mkdir()
    with pytest.raises(AdmissionError, match=r"model\.sig"):
        Artifact.read(plain_folder)
    path.rmdir()
    path.write_bytes(b"x" * (2**18 + 1))
    with pytest.raises(AdmissionError, match=r"model\.sig"):
        Artifact.read(plain_folder)


def test_names_that_differ_in_case_are_refused(plain_folder: Path) -> None:
    (plain_folder / "notes.md").write_bytes(b"")
    (plain_folder / "NOTES.md").write_bytes(b"")
    with pytest.raises(AdmissionError, match="only in case"):
        Artifact.read(plain_folder)


def test_the_number_of_files_is_bounded(plain_folder: Path) -> None:
    for index in range(admission.MAX_FILES):
        (plain_folder / f"{index}.txt").write_bytes(b"")
    with pytest.raises(AdmissionError, match=f"more than {admission.MAX_FILES} files"):
        Artifact.read(plain_folder)


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "adapthub.json", "adapter_model.safetensors", "tokenizer.json"]
)
def test_sizes_are_bounded_before_anything_is_read(plain_folder: Path, name: str) -> None:
    limit = admission.MAX_BYTES.get(name, admission.MAX_DOCUMENT_BYTES)
    with (plain_folder / name).open("wb") as stream:
        stream.truncate(limit + 1)  # sparse: takes no room
    with pytest.raises(AdmissionError, match=f"{name} has more than {limit} bytes"):
        admission.read_file(plain_folder, name)


def test_an_unreadable_file_is_a_storage_error(plain_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        with pytest.raises(StorageError, match=r"cannot read .*: Permission denied"):
            Artifact.read(plain_folder)


@given(st.text())
def test_an_admitted_name_stays_in_the_folder(name: str) -> None:
    try:
        admission.check_name(name)
    except AdmissionError:
        return
    assert Path("/folder", name).resolve().parent == Path("/folder")
    assert name not in (".", "..", "")
    assert name.isascii()
