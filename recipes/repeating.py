"""Repeating a finished run from its folder: what a run records of how it was asked for, and the same asked again.

A repeat takes every setting as it was resolved then, so that a default that changed since changes nothing. On the same
machine with the same libraries it gives the same bytes. Does not train.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from adapthub.adapters.errors import InvalidData, InvalidSettings
from adapthub.adapters.files import sha256_file
from adapthub.adapters.methods import find_method
from adapthub.recipes import answered as written
from adapthub.recipes import run as runs
from adapthub.recipes.catalog import RECIPES, find_recipe
from adapthub.recipes.data.shards import is_pattern
from adapthub.recipes.environment import libraries, unrecorded
from adapthub.recipes.settings import SETTINGS

if TYPE_CHECKING:
    from adapthub.adapters.base import Base
    from adapthub.adapters.tasks import Task
    from adapthub.recipes.job import Job
    from adapthub.recipes.run import Run

_ANEW = "Train anew with adapt train."


def sources(
    job: Job, base: Base, task: str, data: Any, validation: Any, test: Any, hub: Any
) -> dict[str, Any]:
    """What a run's folder keeps of where everything came from, as JSON takes it; paths are absolute.

    What was handed over in memory has no place: it is recorded as the kind of thing that it was.
    """
    return {
        "task": {"place": task if task in RECIPES else _place(task), "sha256": _sha256(task)},
        "data": _place(data),
        "validation": _place(validation),
        "test": _place(test),
        "options": dict(job.options),
        "base": _place(base.ref),
        "start": job.parent.source if job.parent else None,
        "hub": hub if isinstance(hub, str) else None,
        "device": base.device.type,
        "dtype": str(base.dtype).removeprefix("torch."),
    }


def repeated(folder: str | Path) -> dict[str, Any]:
    """The arguments with which `train` does again what the run in `folder` did.

    Raises InvalidSettings where it is no run, not finished, or older than what it must record; InvalidData, naming the
    split, for data that is no longer there or never was in a file.
    """
    run = runs.load(Path(folder))
    if run.state != "finished":
        raise InvalidSettings(
            f"{run.path} is not finished, so there is nothing to repeat",
            hint=f"Go on with it: --resume {run.path}.",
        )
    if run.sources is None:
        raise InvalidSettings(
            f"{run.path} does not say where its data lay: an older AdaptHub made it", hint=_ANEW
        )
    was, configuration = run.sources, run.configuration
    task, sha256 = was["task"]["place"], was["task"]["sha256"]
    if _sha256(task) != sha256:
        raise InvalidSettings(
            f"cannot repeat {run.path}: its recipe {task} changed, or is no longer there", hint=_ANEW
        )
    for name in ("data", "validation", "test"):
        _check_place(run, "training data" if name == "data" else f"{name} split", was[name])
    recipe, method = find_recipe(task), configuration["method"]
    known = (*SETTINGS, *find_method(method).defaults(cast("Task", recipe.task)))
    settings = {name: value for name, value in configuration["settings"].items() if name in known}
    # A run from before this was asked wrote all texts.
    unsaid = {"answered": configuration["settings"].get("answered", written.ALL)}
    # As its file said then, wherever that lies and whatever it says now.
    said = {"template": configuration["settings"].get("template")}
    return {
        **settings,
        **{name: value for name, value in unsaid.items() if name in recipe.options},
        **was["options"],
        **{name: text for name, text in said.items() if text is not None and name in recipe.options},
        "task": task,
        "method": method,
        "quantize": configuration["quantize"],
        "seed": configuration["seed"],
        **{name: was[name] for name in ("data", "validation", "test", "base", "start", "device", "dtype")},
        "hub": was["hub"],
        "repeats": run,
    }


def check_same(job: Job, run: Run) -> None:
    """What is about to run is what `run` was. Raises InvalidData naming the split that changed, InvalidSettings naming
    whatever else did.
    """
    before = run.configuration["data"]
    for name in dict.fromkeys((*before, *job.splits)):
        if name not in job.splits or name not in before:
            here = "is no longer there" if name in before else "was not there"
            raise InvalidData(f"cannot repeat {run.path}: the {name} split {here}", hint=_ANEW)
        now, then = job.splits[name].dataset, before[name]
        if now.fingerprint != then["fingerprint"]:
            if otherwise := runs.split_otherwise(run, job.notes):
                raise InvalidData(f"cannot repeat {run.path}: {otherwise}", hint=_ANEW)
            raise InvalidData(
                f"cannot repeat {run.path}: the {name} split ({now.source}) changed: it had {then['rows']} rows"
                f" ({_short(then['fingerprint'])}), and has {len(now)} ({_short(now.fingerprint)})",
                hint=f"Give it back its rows, in their order. {_ANEW}",
            )
    changed = runs.differences(run.configuration, runs.plain(job.configuration))
    if others := [words for words in changed if not words.startswith("base.id ")]:
        raise InvalidSettings(f"cannot repeat {run.path}: {'; '.join(others)}", hint=_ANEW)


def changes(run: Run, hardware: Mapping[str, Any], *, doing: str) -> Iterator[str]:
    """A note where versions or hardware are not those that `run` began with: the arithmetic may differ."""
    versions = run.environment["libraries"]
    known = {name: version for name, version in libraries().items() if name not in unrecorded(versions)}
    for what, before, now in (
        ("versions", versions, known),
        ("hardware", run.environment["hardware"], hardware),
    ):
        changed = [
            f"{name} {before.get(name, 'none')} -> {now.get(name, 'none')}"
            for name in dict.fromkeys((*before, *now))
            if before.get(name) != now.get(name)
        ]
        if changed:
            yield f"{doing} with other {what} than {run.path} began with: {', '.join(changed)}"


def _place(source: Any) -> Any:
    """Where a source is: an absolute path, a name that is no path, a place a split, or what else it was."""
    if source is None or source is False:
        return source
    if isinstance(source, Mapping):
        return {name: _place(one) for name, one in source.items()}
    if isinstance(source, (str, Path)):
        return str(Path(source).absolute()) if _is_there(Path(source)) else str(source)
    return {"in_memory": type(source).__name__}


def _is_there(place: Path) -> bool:
    """Of shards the reader says which are missing."""
    return place.exists() or is_pattern(place)


def _sha256(task: str) -> str | None:
    """Of a recipe in a file of its own; None for one of ours, and for a file that is not there."""
    return sha256_file(Path(task)) if task not in RECIPES and Path(task).is_file() else None


def _check_place(run: Run, what: str, place: Any) -> None:
    if isinstance(place, dict):
        if "in_memory" in place:
            raise InvalidData(
                f"cannot repeat {run.path}: its {what} was a {place['in_memory']} in memory, not a file",
                hint=_ANEW,
            )
        for name, one in place.items():
            _check_place(run, f"{name} split", one)
    elif isinstance(place, str) and Path(place).is_absolute() and not _is_there(Path(place)):
        raise InvalidData(
            f"cannot repeat {run.path}: its {what} lay at {place}, which is no longer there",
            hint="Put it back.",
        )


def _short(fingerprint: str) -> str:
    return f"{fingerprint.removeprefix('sha256:')[:8]}.."
