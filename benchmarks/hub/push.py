"""Pushing a new 20 MB adapter against writing that much to the disk and hashing it: by Hugging Face's own client, over LFS
and over Xet, and by ours.

The same client also pushes to a server that keeps nothing (forgetful_server): what client and HTTP take alone. In turn;
ratios are the medians of the rounds'.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants

from adapthub.adapters.admission import WEIGHTS
from adapthub.adapters.artifact import Artifact
from adapthub.hub.connection import Connection
from adapthub.hub.remote import RemoteHub
from benchmarks.common import in_turn, milliseconds, ratio
from benchmarks.hub import servers
from benchmarks.hub.adapters import MEGABYTE, write_adapter
from benchmarks.hub.forgetful_server import NAME

SIZE = 20 * MEGABYTE
_PIECE = 2**20


def measure(folder: Path, rounds: int) -> list[dict[str, Any]]:
    made = [write_adapter(folder / f"adapter-{number}", number, SIZE) for number in range(rounds + 1)]
    return [
        _measure(folder / "lfs", rounds, made, "huggingface_hub, LFS", _theirs),
        _measure(folder / "xet", rounds, made, "huggingface_hub, Xet", _theirs),
        _measure(folder / "own", rounds, made, "adapthub", _ours),
    ]


Push = Callable[[Artifact], Any]


def _measure(
    folder: Path, rounds: int, made: list[Artifact], by: str, client: Callable[[str, str], Push]
) -> dict[str, Any]:
    first, second, copied = iter(made), iter(made), iter(made)
    numbers = itertools.count()
    token = servers.new_token(folder / "hub")
    constants.HF_HUB_DISABLE_XET = "Xet" not in by
    with servers.hub(folder / "hub") as server, servers.forgetful() as forgetful:
        push, throw_away = client(server.url, token), client(forgetful.url, token)
        os.sync()  # or the adapters' own bytes are written while others are measured
        seconds = in_turn(
            {
                "push": lambda: push(next(first)),
                "nowhere": lambda: throw_away(next(second)),
                "write": lambda: write_and_hash(
                    next(copied).path / WEIGHTS, folder / f"copy-{next(numbers)}"
                ),
            },
            rounds,
        )
    return {
        "by": by,
        "megabytes": SIZE / MEGABYTE,
        "push ms": milliseconds(seconds["push"]),
        "to nowhere ms": milliseconds(seconds["nowhere"]),
        "write and hash ms": milliseconds(seconds["write"]),
        "push / write": ratio(seconds, "push", "write"),
        "nowhere / write": ratio(seconds, "nowhere", "write"),
    }


def _theirs(url: str, token: str) -> Push:
    api = HfApi(endpoint=url, token=token)
    api.create_repo(NAME)
    return lambda artifact: api.upload_folder(repo_id=NAME, folder_path=artifact.path)


def _ours(url: str, token: str) -> Push:
    hub = RemoteHub(Connection(url, token))
    return lambda artifact: hub.push(artifact, NAME)


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
