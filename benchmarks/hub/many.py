"""One 20 MB adapter, pulled a hundred times at once: all its files, from our hub and from a plain server of static files.

The clients are threads of one other process that throw the bytes away, so that the disk is not what is measured. In turn;
the ratio is the median of the rounds'.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from adapthub.hub.embedded import EmbeddedHub
from benchmarks.common import in_turn, ratio
from benchmarks.hub import servers, static_server
from benchmarks.hub.adapters import MEGABYTE, write_adapter

PULLS, SIZE = 100, 20 * MEGABYTE
_PIECE = 2**20


def measure(folder: Path, rounds: int) -> list[dict[str, Any]]:
    artifact = write_adapter(folder / "adapter", 0, SIZE)
    EmbeddedHub(folder / "hub").push(artifact, static_server.NAME)
    files = list(artifact.files)
    with servers.hub(folder / "hub") as ours, servers.static(artifact.path) as plain:
        idle = ours.peak_megabytes()
        seconds = in_turn(
            {"hub": lambda: _pull(ours.url, files), "static": lambda: _pull(plain.url, files)}, rounds
        )
        peak = ours.peak_megabytes()
    moved = PULLS * artifact.size / MEGABYTE
    return [
        {
            "pulls at once": PULLS,
            "hub MB/s": moved / sorted(seconds["hub"])[rounds // 2],
            "static MB/s": moved / sorted(seconds["static"])[rounds // 2],
            "hub / static": ratio(seconds, "hub", "static"),
            "server MB before": round(idle),
            "server MB at most": round(peak),
        }
    ]


def _pull(url: str, files: list[str]) -> None:
    job = json.dumps({"url": url, "files": files})
    subprocess.run([sys.executable, "-m", "benchmarks.hub.many"], input=job, text=True, check=True)


def _client() -> None:
    """The clients' process: pulls, all of which begin at once."""
    job = json.loads(sys.stdin.read())
    where = urlsplit(job["url"])

    def pull(_: int) -> int:
        connection = HTTPConnection(str(where.hostname), where.port, timeout=300)
        got = 0
        for file in job["files"]:
            connection.request("GET", f"/{static_server.NAME}/resolve/main/{file}")
            response = connection.getresponse()
            if response.status != 200:
                raise RuntimeError(f"{file}: {response.status}")
            while piece := response.read(_PIECE):
                got += len(piece)
        connection.close()
        return got

    with ThreadPoolExecutor(PULLS) as pool:
        if len(set(pool.map(pull, range(PULLS)))) != 1:
            raise RuntimeError("the pulls got different numbers of bytes")


if __name__ == "__main__":
    _client()
