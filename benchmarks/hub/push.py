"""Pushing a new 20 MB adapter with Hugging Face's own client, against writing that much to the disk and hashing it.

In turn; the ratio is the median of the rounds'. By LFS, and by Xet.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants

from adapthub.adapters.admission import WEIGHTS
from benchmarks.common import in_turn, milliseconds, ratio
from benchmarks.hub import servers
from benchmarks.hub.adapters import MEGABYTE, write_adapter

SIZE = 20 * MEGABYTE
_PIECE = 2**20


def measure(folder: Path, rounds: int) -> list[dict[str, Any]]:
    return [_measure(folder / way, rounds, way) for way in ("lfs", "xet")]


def _measure(folder: Path, rounds: int, way: str) -> dict[str, Any]:
    made = [write_adapter(folder / f"adapter-{number}", number, SIZE).path for number in range(rounds + 1)]
    sources, copies = iter(made), iter(made)
    numbers = itertools.count()
    hub = folder / "hub"
    token = servers.new_token(hub)
    constants.HF_HUB_DISABLE_XET = way == "lfs"
    with servers.hub(hub) as server:
        api = HfApi(endpoint=server.url, token=token)
        api.create_repo("bench/pushed")
        seconds = in_turn(
            {
                "push": lambda: api.upload_folder(repo_id="bench/pushed", folder_path=next(sources)),
                "write": lambda: write_and_hash(next(copies) / WEIGHTS, folder / f"copy-{next(numbers)}"),
            },
            rounds,
        )
    return {
        "by": way,
        "megabytes": SIZE / MEGABYTE,
        "push ms": milliseconds(seconds["push"]),
        "write and hash ms": milliseconds(seconds["write"]),
        "push / write": ratio(seconds, "push", "write"),
    }


def write_and_hash(source: Path, target: Path) -> str:
    """A copy of `source` that survives a power cut, and its sha256."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        while piece := reader.read(_PIECE):
            digest.update(piece)
            writer.write(piece)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()
