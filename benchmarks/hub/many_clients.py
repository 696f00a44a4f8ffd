"""Many clients that pull the same files at once, in one process: prints when each had everything, in seconds, as JSON.

Fails where one gets anything else than what it asked for. Does not measure servers (many does).
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from threading import Barrier
from typing import Any
from urllib.parse import urlsplit

_PIECE = 2**20


def main() -> None:
    job = json.loads(sys.stdin.read())
    together = Barrier(job["pulls"])
    with ThreadPoolExecutor(job["pulls"]) as pool:
        print(json.dumps(sorted(pool.map(lambda _: _pull(job, together), range(job["pulls"])))))


def _pull(job: dict[str, Any], together: Barrier) -> float:
    where = urlsplit(job["url"])
    together.wait()
    began = time.perf_counter()
    connection = HTTPConnection(str(where.hostname), where.port, timeout=300)
    for file, sha256 in job["sha256s"].items():
        connection.request("GET", f"/{job['name']}/resolve/main/{file}")
        response = connection.getresponse()
        digest = hashlib.sha256()
        while piece := response.read(_PIECE):
            digest.update(piece)
        if response.status != 200 or digest.hexdigest() != sha256:
            raise RuntimeError(f"{file}: {response.status}, {digest.hexdigest()}")
    connection.close()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
