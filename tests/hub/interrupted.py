"""Pushes that are killed, run outside of the tests' own process: `python interrupted.py MODE FOLDER`.

Each push runs in a forked child; another child then opens the hub afresh and checks that it holds either what
it held before or the whole new version, that a retry makes it whole, and that nothing is damaged. Prints one
JSON list of [where it died, "nothing" or "whole"]. This process itself never touches a hub, so that forking
it is safe.

Modes: `killed-first` and `killed-next` kill with SIGKILL at every write point, of the first push of all
(which makes the hub) and of one more push to a hub in use; `torn-next` lets the kernel kill in the middle of
a write, when a file grows beyond each of a range of sizes.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from adapthub.adapters.artifact import Artifact
from adapthub.hub.embedded import EmbeddedHub
from tests.hub.adapters import contents, manifest, write_adapter
from tests.hub.processes import in_child, prepare_to_fork
from tests.hub.write_points import WritePoints

NAME = "acme/ner"
NOTHING, WHOLE = 10, 11
OUTCOMES = {NOTHING: "nothing", WHOLE: "whole"}
TORN_SIZES = range(0, 720_000, 45_000)


def make_adapters(folder: Path) -> tuple[Artifact, Artifact]:
    """An adapter that is there before, and the one whose push is interrupted: weights of 64 KB, all kinds of
    rows."""
    recorded = manifest(metrics={"test": {"f1": 0.8}, "validation": {"f1": 0.7}})
    before = write_adapter(folder / "before", seed=1)
    return before, write_adapter(
        folder / "pushed", seed=2, manifest=recorded, card="# Interrupted", width=4096
    )


def open_hub(folder: Path) -> EmbeddedHub:
    return EmbeddedHub(folder / "hub", cache=folder / "cache")


def check(folder: Path, before: Artifact | None, pushed: Artifact) -> int:
    """Check everything about the hub that an interrupted push left in `folder`, and that pushing again
    works."""
    hub = open_hub(folder)
    held = [] if hub.available(NAME) else list(hub.show(NAME).versions)[::-1]
    known = [] if before is None else [before.digest]
    assert [version.digest for version in held] in (known, [*known, pushed.digest]), held
    whole = len(held) > len(known)
    _check_contents(hub, before, pushed, whole=whole)
    version = hub.push(pushed, NAME, alias="prod")
    assert (version.number, version.repeated) == (len(known) + 1, whole)
    _check_contents(hub, before, pushed, whole=True)
    with closing(sqlite3.connect(folder / "hub" / "hub.sqlite3")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    return WHOLE if whole else NOTHING


def _check_contents(hub: EmbeddedHub, before: Artifact | None, pushed: Artifact, *, whole: bool) -> None:
    versions = ([] if before is None else [before]) + ([pushed] if whole else [])
    for number, artifact in enumerate(versions, start=1):
        assert contents(hub.pull(f"{NAME}@v{number}").path) == contents(artifact.path)
    names = [NAME] if versions else []
    assert [entry.name for entry in hub.list()] == names
    assert [entry.name for entry in hub.search("interrupted", metric="f1==0.8")] == (names if whole else [])
    if versions:
        details = hub.show(NAME)
        (prod,) = details.aliases
        assert [move.target for move in prod.history] == list(range(1, len(versions) + 1))
        assert prod.number == len(versions)
        assert (details.facts.metrics != ()) == whole


def main(mode: str, folder: Path) -> None:
    prepare_to_fork()
    before, pushed = make_adapters(folder)
    template = folder / "template"
    template.mkdir()
    held = None if mode == "killed-first" else before
    if held is not None:
        assert in_child(lambda: _push(template, held)) == 0
    attempts = _torn(pushed) if mode == "torn-next" else _killed(pushed)
    outcomes = []
    for number, attempt in enumerate(attempts):
        trial = folder / f"trial-{number}"
        shutil.copytree(template, trial)
        died = in_child(lambda attempt=attempt, trial=trial: attempt(trial))  # type: ignore[misc]
        where = (
            (trial / "died-at").read_text()
            if (trial / "died-at").exists()
            else signal.Signals(max(-died, 1)).name
        )
        outcome = in_child(lambda trial=trial: check(trial, held, pushed))  # type: ignore[misc]
        if outcome not in OUTCOMES:
            raise AssertionError(f"attempt {number}, {where}: the hub is not as it should be")
        if died == 0 and mode != "torn-next":
            assert outcome == WHOLE
            break
        outcomes.append([where if died else "not at all", OUTCOMES[outcome]])
        shutil.rmtree(trial)
    print(json.dumps(outcomes))


def _push(folder: Path, artifact: Artifact) -> int:
    open_hub(folder).push(artifact, NAME, alias="prod")
    return 0


def _killed(pushed: Artifact) -> Iterator[Callable[[Path], int]]:
    def attempt(trial: Path, at: int) -> int:
        def die(kind: str) -> None:
            (trial / "died-at").write_text(kind)
            os.kill(os.getpid(), signal.SIGKILL)

        points = WritePoints(at, die)
        with points.installed():
            code = _push(trial, pushed)
            points.reach("the end")
        return code

    at = 0
    while True:
        at += 1
        yield lambda trial, at=at: attempt(trial, at)  # type: ignore[misc]


def _torn(pushed: Artifact) -> Iterator[Callable[[Path], int]]:
    def attempt(trial: Path, size: int) -> int:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the kernel then kills instead of failing the write
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return _push(trial, pushed)

    for size in TORN_SIZES:
        yield lambda trial, size=size: attempt(trial, size)  # type: ignore[misc]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
