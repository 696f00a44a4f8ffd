"""What the tests run in other processes: a few pushes to one name, in a loop."""

from __future__ import annotations

from pathlib import Path

from adapthub.adapters.artifact import Artifact
from adapthub.hub.embedded import EmbeddedHub


def push_all(hub: Path, folders: list[Path]) -> list[tuple[str, int]]:
    """Push each folder as a version of acme/ner with the alias prod; (digest, number) of each."""
    versions = [
        EmbeddedHub(hub, cache=hub / "cache").push(Artifact.read(folder), "acme/ner", alias="prod")
        for folder in folders
    ]
    return [(version.digest, version.number) for version in versions]
