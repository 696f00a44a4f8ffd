"""Servers to measure, each a process of its own on a free port; and the clients' process.

  ours           `adapt serve` with a hub of `adapters`, a key a tenant where there are tenants
  transformers   `transformers serve --continuous-batching` on the base alone, with as much room as ours
  peft           see peft_server

Does not measure.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from benchmarks.serve.plan import Ask, as_json

KV_TOKENS, MAX_ROWS, STEP_TOKENS = 32768, 64, 512
_PAGE = 256
_STARTING = 300.0  # seconds
_BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Server:
    """Where it is, how its models are called, and what it takes besides. `keys`: tenant to key."""

    url: str
    base: str
    keys: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def ask(self, asks: Sequence[Ask]) -> list[dict[str, Any]]:
        """Send what was planned, from another process; one outcome each (client)."""
        job = {"url": self.url, "keys": self.keys, "extra": self.extra, "asks": as_json(asks)}
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.serve.client"],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            check=True,
        )
        outcomes: list[dict[str, Any]] = json.loads(done.stdout)
        return outcomes


@contextmanager
def ours(base: Path, home: Path, tenants: Sequence[str]) -> Iterator[Server]:
    """With the hub in `home`, and a key for each of `tenants`."""
    keys = {tenant: _new_key(tenant, home) for tenant in tenants}
    port = _free_port()
    command = [str(_BIN / "adapt"), "serve", "--base", str(base), "--any", "--port", str(port)]
    command += ["--kv-tokens", str(KV_TOKENS), "--max-rows", str(MAX_ROWS)]
    url = f"http://127.0.0.1:{port}"
    with _running(command, f"{url}/ready", {"ADAPTHUB_HOME": str(home)}):
        yield Server(url, str(base), keys, {"ignore_eos": True})


@contextmanager
def transformers(base: Path) -> Iterator[Server]:
    port = _free_port()
    command = [str(_BIN / "transformers"), "serve", str(base), "--continuous-batching", "--port", str(port)]
    command += ["--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1"]
    command += ["--cb-block-size", str(_PAGE), "--cb-num-blocks", str(KV_TOKENS // _PAGE)]
    command += ["--cb-max-batch-tokens", str(STEP_TOKENS)]
    url = f"http://127.0.0.1:{port}"
    with _running(command, f"{url}/health", {}):
        yield Server(url, str(base))


@contextmanager
def peft(base: Path, adapters: Sequence[Path]) -> Iterator[Server]:
    port = _free_port()
    command = [
        sys.executable,
        "-m",
        "benchmarks.serve.peft_server",
        str(base),
        str(port),
        *map(str, adapters),
    ]
    url = f"http://127.0.0.1:{port}"
    with _running(command, f"{url}/health", {}):
        yield Server(url, str(base))


@contextmanager
def _running(command: Sequence[str], health: str, environment: Mapping[str, str]) -> Iterator[None]:
    process = subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(process, health)
        yield
    finally:
        process.terminate()
        process.wait()


def _wait(process: subprocess.Popen[bytes], health: str) -> None:
    until = time.monotonic() + _STARTING
    while time.monotonic() < until and process.poll() is None:
        try:
            with urlopen(health) as response:
                if response.status == 200:
                    return
        except (URLError, ConnectionError):
            time.sleep(0.2)
    raise RuntimeError(f"{process.args!r} did not start")


def _new_key(tenant: str, home: Path) -> str:
    done = subprocess.run(
        [str(_BIN / "adapt"), "tenant", "add", tenant, "--allow", "acme/*", "--json"],
        env={**os.environ, "ADAPTHUB_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    key: str = json.loads(done.stdout)["key"]
    return key


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
