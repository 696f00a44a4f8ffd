"""A push that is killed, or that the disk refuses, at any write: all of it or none of it, and a retry
works."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.errors import StorageError
from tests.hub.interrupted import NAME, NOTHING, WHOLE, check, make_adapters, open_hub
from tests.hub.write_points import WritePoints

HARNESS = Path(__file__).with_name("interrupted.py")
MEMORY = Path("/dev/shm")
KINDS = {"os.replace", "os.fsync", "os.mkdir", "sql BEGIN", "sql INSERT", "sql COMMIT"}


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where that is to be had: hundreds of fsyncs, and a killed process loses nothing that it
    wrote."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        yield Path(name)


def interrupted(mode: str, folder: Path) -> list[list[str]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, HARNESS, mode, folder], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    outcomes: list[list[str]] = json.loads(done.stdout)
    return outcomes


def test_killed_at_every_write_point(folder: Path) -> None:
    outcomes = interrupted("killed-next", folder)
    seen = Counter(where for where, _ in outcomes)
    assert seen.keys() >= KINDS
    assert seen["os.replace"] == 3  # card, manifest, weights; the configuration is there
    assert [outcome for _, outcome in outcomes] == ["nothing"] * (len(outcomes) - 1) + ["whole"]


@pytest.mark.slow
def test_killed_at_every_write_point_of_the_first_push_of_all(folder: Path) -> None:
    outcomes = interrupted("killed-first", folder)
    seen = Counter(where for where, _ in outcomes)
    assert seen.keys() >= {*KINDS, "sql PRAGMA", "sql CREATE"}
    assert [outcome for _, outcome in outcomes] == ["nothing"] * (len(outcomes) - 1) + ["whole"]


def test_killed_in_the_middle_of_a_write(folder: Path) -> None:
    outcomes = interrupted("torn-next", folder)
    killed = [outcome for where, outcome in outcomes if where == "SIGXFSZ"]
    assert killed.count("nothing") >= 4
    assert killed == sorted(killed)
    assert outcomes[-1] == ["not at all", "whole"]


def disk_full(kind: str) -> None:
    """Fail as the call of that kind fails on a full disk."""
    if kind.startswith("sql"):
        raise sqlite3.OperationalError("database or disk is full")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def push(folder: Path, artifact: Artifact) -> StorageError | None:
    """Open the hub in `folder` and push; the error, if it says that the disk refused."""
    try:
        open_hub(folder).push(artifact, NAME, alias="prod")
    except StorageError as error:
        return error
    return None


@pytest.mark.parametrize(
    "used", [pytest.param(False, id="first", marks=pytest.mark.slow), pytest.param(True, id="next")]
)
def test_a_disk_full_at_every_write_point(folder: Path, used: bool) -> None:
    before, pushed = make_adapters(folder)
    template = folder / "template"
    template.mkdir()
    if used:
        open_hub(template).push(before, NAME, alias="prod")
    failed = set()
    for at in range(1, 1000):
        trial = folder / f"trial-{at}"
        shutil.copytree(template, trial)
        points = WritePoints(at, disk_full)
        with points.installed():
            error = push(trial, pushed)
        if len(points.reached) < at:
            break
        where = points.reached[at - 1]
        if error is None:
            assert where == "os.mkdir"  # of a folder that is there: no disk is too full for that
        else:
            failed.add(where)
            assert error.hint
            assert "\n" not in str(error)
            assert where == "os.unlink" or not list(trial.glob("hub/blobs/incoming/*"))
        assert check(trial, before if used else None, pushed) == (WHOLE if error is None else NOTHING)
        shutil.rmtree(trial)
    assert failed >= KINDS
    assert check(trial, before if used else None, pushed) == WHOLE


def test_a_file_system_that_refuses_to_write_on(folder: Path) -> None:
    """Real failures in the middle of a file, of a blob and of the database, at every size; then they end."""
    before, pushed = make_adapters(folder)
    open_hub(folder / "template").push(before, NAME, alias="prod")
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    outcomes = []
    for size in range(0, 720_000, 40_000):
        trial = folder / f"trial-{size}"
        shutil.copytree(folder / "template", trial)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
        try:
            error = push(trial, pushed)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            signal.signal(signal.SIGXFSZ, ignored)
        assert list(trial.glob("hub/blobs/incoming/*")) == []
        outcomes.append((error is not None, check(trial, before, pushed)))
    assert outcomes[-1] == (False, WHOLE)
    assert set(outcomes) == {(True, NOTHING), (False, WHOLE)}


@pytest.mark.slow
def test_a_full_disk(tmp_path: Path) -> None:
    """On a real file system of 1 MiB. Needs the right to mount one (root, or user namespaces)."""
    script = f"""
import os, subprocess, sys
from pathlib import Path
from adapthub.adapters.errors import StorageError
from tests.hub.adapters import write_adapter
from tests.hub.interrupted import NAME, NOTHING, check, make_adapters, open_hub
disk, elsewhere = Path({str(tmp_path / "disk")!r}), Path({str(tmp_path / "elsewhere")!r})
before, pushed = make_adapters(elsewhere)
disk.mkdir()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
open_hub(disk).push(before, NAME, alias="prod")
hub = open_hub(disk)
filler = disk / "filler"
failures = 0
for spare in range(0, 160_000, 4096):
    room = os.statvfs(disk)
    filler.write_bytes(bytes(room.f_bavail * room.f_bsize - spare))
    try:
        hub.push(pushed, NAME, alias="prod")
    except StorageError as error:
        assert "full" in str(error) or "No space" in str(error) or "disk I/O" in str(error), error
        failures += 1
    filler.unlink()
    if hub.show(NAME).versions[0].number == 2:
        break
    assert hub.show(NAME).aliases[0].number == 1
    assert [path for path in (disk / "hub" / "blobs" / "incoming").iterdir()] == []
assert failures >= 5, failures
check(disk, before, pushed)
"""
    become_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    done = subprocess.run(
        ["unshare", "--mount", *become_root, sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
