"""The server's uploads and commits, alias moves, renames, rewritten histories, collections, backups and restores, killed at
every write: what is visible is whole, and the same done again is done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

HARNESS = Path(__file__).with_name("interrupted.py")
MEMORY = Path("/dev/shm")


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where that is to be had: a killed process loses nothing that it wrote."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        yield Path(name)


# How many versions are there before and after, or whether it was done, and writes that there are at least.
MODES = {
    "alias": (2, 2, {"sql BEGIN", "sql INSERT", "sql UPDATE", "sql COMMIT"}),
    "gc": (1, 1, {"obstore.delete", "sql DELETE", "sql COMMIT"}),
    "move": (0, 1, {"sql BEGIN", "sql INSERT", "sql UPDATE", "sql COMMIT"}),
    "squash": (0, 1, {"sql DELETE", "sql INSERT", "sql COMMIT", "obstore.delete"}),
    "purge": (0, 1, {"sql DELETE", "sql INSERT", "sql COMMIT", "obstore.delete"}),
    "backup": (2, 2, {"os.fsync", "os.replace"}),
    "restore": (0, 2, {"os.replace", "os.fsync", "sql INSERT", "sql COMMIT"}),
    "lfs": (1, 2, {"os.replace", "os.fsync", "sql INSERT", "sql UPDATE", "sql COMMIT"}),
    "parts": (1, 2, {"os.replace", "os.fsync", "sql INSERT", "sql DELETE", "obstore.delete", "sql COMMIT"}),
    "xet": (1, 2, {"os.replace", "os.fsync", "os.mkdir", "sql INSERT", "sql COMMIT"}),
}


@pytest.mark.parametrize(
    "mode", ["alias", *(pytest.param(m, marks=pytest.mark.slow) for m in MODES if m != "alias")]
)
def test_killed_at_every_write_point(folder: Path, mode: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, HARNESS, mode, folder], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    before, after, kinds = MODES[mode]
    assert Counter(where for where, _ in outcomes).keys() >= kinds
    left = [number for _, number in outcomes]
    assert left == sorted(left)  # once it is there it stays
    assert (left[0], left[-1]) == (before, after)
