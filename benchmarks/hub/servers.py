"""Servers to measure, each a process of its own on a free port: our hub, and a plain server of static files.

Does not measure.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_ADAPT = str(Path(sys.executable).with_name("adapt"))


@dataclass(frozen=True)
class Server:
    """Where a server is, and the process that it is."""

    url: str
    pid: int

    def peak_megabytes(self) -> float:
        """The most memory that it had resident so far, without the files that the system keeps for it."""
        fields = dict(
            line.split(":", 1) for line in Path(f"/proc/{self.pid}/status").read_text().splitlines()
        )
        return int(fields["VmHWM"].split()[0]) / 1024


@contextmanager
def hub(data: Path, *, database: str | None = None) -> Iterator[Server]:
    """`adapt hub serve` over the hub in `data`."""
    where = [] if database is None else ["--database", database]
    command = [_ADAPT, "hub", "serve", "--port", "0", "--data", str(data), *where, "--json"]
    with _running(command) as server:
        yield server


@contextmanager
def static(folder: Path) -> Iterator[Server]:
    """The files of `folder` by the same protocol, from memory and the disk (static_server)."""
    with _running([sys.executable, "-m", "benchmarks.hub.static_server", str(folder)]) as server:
        yield server


@contextmanager
def forgetful() -> Iterator[Server]:
    """What takes uploads and keeps nothing (forgetful_server)."""
    with _running([sys.executable, "-m", "benchmarks.hub.forgetful_server"]) as server:
        yield server


def new_token(data: Path, *, database: str | None = None) -> str:
    """A token of the account `bench`, whose namespace is its own."""
    where = [] if database is None else ["--database", database]
    done = subprocess.run(
        [
            _ADAPT,
            "hub",
            "token",
            "create",
            "bench",
            "--scope",
            "write",
            "--data",
            str(data),
            *where,
            "--json",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    token: str = json.loads(done.stdout)["token"]
    return token


@contextmanager
def _running(command: Sequence[str]) -> Iterator[Server]:
    """A process that says in its first lines, as JSON, at which address it is."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout is not None
    try:
        text = ""
        for line in process.stdout:
            text += line
            if line.startswith("}") or (line.startswith("{") and line.rstrip().endswith("}")):
                break
        else:
            raise RuntimeError(f"{command} did not start")
        yield Server(json.loads(text)["address"], process.pid)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()
