"""Files appear whole or not at all, also when the disk fills up or the process is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from adapthub.adapters.errors import Conflict, StorageError
from adapthub.adapters.files import new_directory, sha256_bytes, sha256_file, write_bytes


def test_digests_agree_with_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_bytes(b"abc") == sha256_bytes(memoryview(b"abc")) == sha256_file(tmp_path / "a") == known


def test_write_bytes_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file"
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_write_bytes_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    fail_with_full_disk(monkeypatch, call)
    with pytest.raises(StorageError, match="No space left"):
        write_bytes(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_bytes_where_a_file_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot write"):
        write_bytes(tmp_path / "file" / "below", b"")


@pytest.mark.parametrize("replace", [False, True])
def test_a_new_directory_appears_whole(tmp_path: Path, replace: bool) -> None:
    with new_directory(tmp_path / "to" / "it", replace=replace) as aside:
        (aside / "a").write_bytes(b"1")
        (aside / "b").mkdir()
        assert not (tmp_path / "to" / "it").exists()
    assert (tmp_path / "to" / "it" / "a").read_bytes() == b"1"
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["it"]


def test_an_existing_directory_conflicts_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "it").mkdir()
    with pytest.raises(Conflict, match="already exists"), new_directory(tmp_path / "it"):
        pytest.fail("entered")
    assert list(tmp_path.iterdir()) == [tmp_path / "it"]


def test_a_directory_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "it"

    def write() -> None:
        with new_directory(target) as aside:
            (aside / "mine").write_bytes(b"")
            target.mkdir()
            (target / "theirs").write_bytes(b"")

    with pytest.raises(Conflict, match="already exists"):
        write()
    assert [path.name for path in tmp_path.rglob("*")] == ["it", "theirs"]


def test_replace_swaps_the_whole_directory(tmp_path: Path) -> None:
    target = tmp_path / "it"
    target.mkdir()
    (target / "old").write_bytes(b"")
    with new_directory(target, replace=True) as aside:
        (aside / "new").write_bytes(b"")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["it", "new"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_an_exception_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def write() -> None:
        with new_directory(tmp_path / "it") as aside:
            (aside / "half").write_bytes(b"")
            raise error

    with pytest.raises(StorageError if error is OSError else error):
        write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_disk_that_fills_up_keeps_the_old_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    target = tmp_path / "it"
    target.mkdir()
    (target / "old").write_bytes(b"")

    def write() -> None:
        with new_directory(target, replace=True) as aside:
            (aside / "new").write_bytes(b"")
            fail_with_full_disk(monkeypatch, call)

    with pytest.raises(StorageError, match="No space left"):
        write()
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["it", "old"]


def test_the_old_directory_survives_where_it_cannot_be_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both the swap and its undoing fail: the old content must still be on the disk, under another name."""
    target = tmp_path / "it"
    target.mkdir()
    (target / "old").write_bytes(b"precious")
    real = Path.rename

    def rename(path: Path, to: Path) -> Path:
        if Path(to) == target:
            raise OSError(5, "Input/output error")
        return real(path, to)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(StorageError), new_directory(target, replace=True) as aside:
        (aside / "new").write_bytes(b"")
    assert [path.read_bytes() for path in tmp_path.rglob("old")] == [b"precious"]


def test_a_killed_writer_leaves_no_target(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, signal, sys\n"
        "from adapthub.adapters.files import new_directory\n"
        "with new_directory(pathlib.Path(sys.argv[1])) as aside:\n"
        "    (aside / 'half').write_bytes(b'x')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "it")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "it").exists()
    with new_directory(tmp_path / "it") as aside:
        (aside / "whole").write_bytes(b"")
    assert [path.name for path in (tmp_path / "it").iterdir()] == ["whole"]


def fail_with_full_disk(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    if call == "fsync":
        monkeypatch.setattr(os, call, fail)
    else:
        monkeypatch.setattr(Path, call, fail)
