"""A PostgreSQL of the tests' own, where the machine has its programs: on a socket in a folder, without durability."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

_numbers = itertools.count(1)


def programs() -> Path | None:
    """The folder of initdb and postgres, if they are installed."""
    found = shutil.which("initdb")
    known = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in known if (folder / "postgres").exists()), None)


@dataclass(frozen=True)
class Postgres:
    """A server that runs in `root`. A call makes an empty database and gives its URL; `control` is pg_ctl."""

    root: Path
    control: Callable[..., None]

    def __call__(self) -> str:
        return _new_database(self.root)

    def stop(self) -> None:
        """As if its machine had lost power."""
        self.control("-m", "immediate", "stop")

    def start(self) -> None:
        self.control("start")


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Within: a server runs."""
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
        # Commits reach the log at once: tests kill the server, never the machine.
        options = ["fsync=off", "full_page_writes=off", "listen_addresses="]
        settings = " ".join(f"-c {option}" for option in [*options, f"unix_socket_directories={root}"])
        command = [str(folder / "pg_ctl"), "-D", str(data), "-w", "-l", str(root / "log"), "-o", settings]

        def control(*arguments: str) -> None:
            subprocess.run([*command, *arguments], user=user, check=True, capture_output=True)

        server = Postgres(root, control)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def _new_database(root: Path) -> str:
    name = f"hub_{next(_numbers)}"
    with psycopg.connect(host=str(root), user="hub", dbname="postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    return f"postgresql://hub@/{name}?host={root}"
