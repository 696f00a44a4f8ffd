"""What the tests run in other processes: a few pushes to one name, in a loop; and what may be killed."""

from __future__ import annotations

import gc
import os
import traceback
from collections.abc import Callable
from pathlib import Path

from sqlalchemy.orm import configure_mappers

from adapthub.adapters.artifact import Artifact
from adapthub.hub.embedded import EmbeddedHub

FAILED = 99  # what a child ends with that raised


def push_all(hub: Path, folders: list[Path]) -> list[tuple[str, int]]:
    """Push each folder as a version of acme/ner with the alias prod; (digest, number) of each."""
    versions = [
        EmbeddedHub(hub, cache=hub / "cache").push(Artifact.read(folder), "acme/ner", alias="prod")
        for folder in folders
    ]
    return [(version.digest, version.number) for version in versions]


def prepare_to_fork() -> None:
    """Do once what every child would do anew: map the tables, and copy the memory that is looked through for garbage."""
    configure_mappers()
    gc.freeze()


def in_child(work: Callable[[], int]) -> int:
    """What `work` returned in a forked child, or minus the signal that killed it."""
    child = os.fork()
    if child == 0:
        try:
            code = work()
        except BaseException:
            traceback.print_exc()
            code = FAILED
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
