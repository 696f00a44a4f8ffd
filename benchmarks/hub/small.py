"""Pulling 200 small adapters, one after the other, into an empty cache: by our client, which hashes every byte, and by
`snapshot_download`.

In turn, from the same server; the ratio is the median of the rounds'.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

from adapthub.hub import open_hub
from adapthub.hub.embedded import EmbeddedHub
from benchmarks.common import in_turn, ratio
from benchmarks.hub import servers
from benchmarks.hub.adapters import write_adapter
from benchmarks.hub.pull import pull

ADAPTERS, SIZE = 200, 100_000


def measure(folder: Path, rounds: int) -> list[dict[str, Any]]:
    hub = EmbeddedHub(folder / "hub")
    names = [f"acme/small-{number}" for number in range(ADAPTERS)]
    for number, name in enumerate(names):
        hub.push(write_adapter(folder / "adapters" / str(number), number, SIZE), name)
    caches = (folder / "caches" / str(number) for number in itertools.count())

    def ours(url: str) -> None:
        os.environ["ADAPTHUB_HOME"] = str(next(caches))  # which has the cache
        remote = open_hub(url)
        for name in names:
            remote.pull(name)

    def theirs(url: str) -> None:
        cache = next(caches)
        for name in names:
            pull(url, name, cache)

    with servers.hub(folder / "hub") as server:
        os.sync()  # or the adapters' own bytes are written while others are measured
        seconds = in_turn(
            {"ours": lambda: ours(server.url), "snapshot_download": lambda: theirs(server.url)}, rounds
        )
    return [
        {
            "adapters": ADAPTERS,
            "ours s": sorted(seconds["ours"])[rounds // 2],
            "snapshot_download s": sorted(seconds["snapshot_download"])[rounds // 2],
            "snapshot_download / ours": ratio(seconds, "snapshot_download", "ours"),
        }
    ]
