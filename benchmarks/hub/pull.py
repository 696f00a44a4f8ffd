"""Pulling a 20 MB adapter with Hugging Face's own client, into an empty cache: from our hub, and from a plain server of
static files that answers the same requests.

In turn; the ratio is the median of the rounds'.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from adapthub.hub.embedded import EmbeddedHub
from benchmarks.common import in_turn, milliseconds, ratio
from benchmarks.hub import servers, static_server
from benchmarks.hub.adapters import MEGABYTE, write_adapter

SIZE = 20 * MEGABYTE


def measure(folder: Path, rounds: int) -> list[dict[str, Any]]:
    artifact = write_adapter(folder / "adapter", 0, SIZE)
    EmbeddedHub(folder / "hub").push(artifact, static_server.NAME)
    caches = (folder / "caches" / str(number) for number in itertools.count())
    with servers.hub(folder / "hub") as ours, servers.static(artifact.path) as plain:
        os.sync()  # or the adapter's own bytes are written while others are measured
        seconds = in_turn(
            {
                "hub": lambda: pull(ours.url, static_server.NAME, next(caches)),
                "static": lambda: pull(plain.url, static_server.NAME, next(caches)),
            },
            rounds,
        )
    return [
        {
            "megabytes": SIZE / MEGABYTE,
            "hub ms": milliseconds(seconds["hub"]),
            "static ms": milliseconds(seconds["static"]),
            "hub / static": ratio(seconds, "hub", "static"),
        }
    ]


def pull(url: str, name: str, cache: Path) -> Path:
    """By `snapshot_download`, into `cache`."""
    return Path(HfApi(endpoint=url, token=False).snapshot_download(name, cache_dir=cache))
