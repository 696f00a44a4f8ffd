"""A PostgreSQL of the tests' own, where the machine has its programs: on a socket in a folder, without durability."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

_numbers = itertools.count(1)


def programs() -> Path | None:
    """The folder of initdb and postgres, if they are installed."""
    found = shutil.which("initdb")
    known = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in known if (folder / "postgres").exists()), None)


@contextmanager
def postgres() -> Iterator[Callable[[], str]]:
    """Within: a server runs; each call makes an empty database and gives its URL."""
    folder = programs()
    assert folder is not None
    user = "postgres" if os.getuid() == 0 else None  # PostgreSQL refuses root
    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        root = Path(name)
        if user is not None:
            shutil.chown(root, user)
        data = root / "data"
        initdb = [
            str(folder / "initdb"),
            "-D",
            str(data),
            "-U",
            "hub",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-sync",
            "--locale",
            "C",
        ]
        subprocess.run(initdb, user=user, check=True, capture_output=True)
        options = ["fsync=off", "synchronous_commit=off", "full_page_writes=off", "listen_addresses="]
        command = [str(folder / "pg_ctl"), "-D", str(data), "-w", "-l", str(root / "log")]
        settings = " ".join(f"-c {option}" for option in [*options, f"unix_socket_directories={root}"])
        subprocess.run([*command, "-o", settings, "start"], user=user, check=True, capture_output=True)
        try:
            yield lambda: _new_database(root)
        finally:
            stop = [str(folder / "pg_ctl"), "-D", str(data), "-w", "-m", "immediate", "stop"]
            subprocess.run(stop, user=user, check=True, capture_output=True)


def _new_database(root: Path) -> str:
    name = f"hub_{next(_numbers)}"
    with psycopg.connect(host=str(root), user="hub", dbname="postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    return f"postgresql://hub@/{name}?host={root}"
