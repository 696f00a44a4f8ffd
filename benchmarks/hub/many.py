"""One 20 MB adapter, pulled a hundred times at once: all its files, from our hub and from a plain server of static files.

The clients are threads of one other process (many_clients), which hash what comes and throw it away, so that the disk is not
what is measured. A pull takes its time from when all begin. In turn; figures are the medians of the rounds'.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from adapthub.hub.embedded import EmbeddedHub
from benchmarks.hub import servers, static_server
from benchmarks.hub.adapters import MEGABYTE, write_adapter

PULLS, SIZE = 100, 20 * MEGABYTE


def measure(folder: Path, rounds: int) -> list[dict[str, Any]]:
    artifact = write_adapter(folder / "adapter", 0, SIZE)
    EmbeddedHub(folder / "hub").push(artifact, static_server.NAME)
    with servers.hub(folder / "hub") as ours, servers.static(artifact.path) as plain:
        both = {"hub": ours, "static": plain}
        idle = {name: server.peak_megabytes() for name, server in both.items()}
        taken: dict[str, list[list[float]]] = {name: [] for name in both}
        for counted in [False] + [True] * rounds:
            for name, server in both.items():
                seconds = _pull(server.url, artifact.sha256s)
                if counted:
                    taken[name].append(seconds)
        return [
            {
                "server": name,
                "pulls at once": PULLS,
                "MB/s": median(PULLS * artifact.size / MEGABYTE / run[-1] for run in taken[name]),
                "p50 s": median(run[PULLS // 2] for run in taken[name]),
                "p99 s": median(run[PULLS * 99 // 100 - 1] for run in taken[name]),
                "failed": 0,  # one that fails ends the benchmark
                "MB before": round(idle[name]),
                "MB at most": round(server.peak_megabytes()),
            }
            for name, server in both.items()
        ]


def _pull(url: str, sha256s: dict[str, str]) -> list[float]:
    """The seconds that each pull took, in order."""
    job = {"url": url, "name": static_server.NAME, "pulls": PULLS, "sha256s": dict(sha256s)}
    command = [sys.executable, "-m", "benchmarks.hub.many_clients"]
    done = subprocess.run(command, input=json.dumps(job), text=True, check=True, capture_output=True)
    seconds: list[float] = json.loads(done.stdout)
    return seconds
