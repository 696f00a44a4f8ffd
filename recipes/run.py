"""The folder of one training run: what was asked, where it ran, how the loss went, checkpoints, and the
adapter.

    runs/acme-ner-20260131-142501/
      run.json         configuration (compared on resume), environment, sources, state: started | trained | finished
      metrics.jsonl    one line a logged step or evaluation
      tensorboard/     the same for TensorBoard
      checkpoints/     transformers' checkpoint-<step> folders
      loss.png         loss and metric over steps
      reliability.png  medical-image: how often the adapter is right by how sure it is, on the last split measured
      adapter/         the artifact

Finds the run to resume and says what differs where none fits. Does not train, evaluate or draw.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from adapthub.adapters.errors import Conflict, InvalidSettings, StorageError
from adapthub.adapters.files import write_bytes
from adapthub.adapters.pooling import MEAN
from adapthub.recipes import answered as written
from adapthub.recipes.splits import set_aside_by

State = Literal["started", "trained", "finished"]
Configuration = Mapping[str, Any]

RUNS = Path("runs")
# What runs from before these were recorded did.
_UNSAID = {"settings.pooling": MEAN, "settings.answered": written.ALL}
# What decides what a run is measured by, and nothing that it learns.
_OF_MEASURING = ("answered",)


@dataclass(frozen=True)
class Run:
    """One run folder. `configuration` decides what the adapter becomes; `environment` says where it was
    made; `sources` where data and base were, None for a run older than that record.
    """

    path: Path
    configuration: Configuration
    environment: Mapping[str, Any]
    created: str
    sources: Mapping[str, Any] | None = None

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def curve(self) -> Path:
        return self.path / "loss.png"

    @property
    def reliability(self) -> Path:
        return self.path / "reliability.png"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def state(self) -> State:
        """How far the run came: "trained" once the loop has ended, "finished" once the artifact is
        evaluated.
        """
        state: State = _read(self.path)["state"]
        return state

    def mark(self, state: State, **facts: Any) -> None:
        """Record how far the run came, with facts such as its best checkpoint or its metrics."""
        record = _read(self.path) if (self.path / "run.json").exists() else self._record()
        write_bytes(self.path / "run.json", _json({**record, **facts, "state": state}))

    def fact(self, name: str) -> Any:
        """A fact that `mark` recorded, or None."""
        return _read(self.path).get(name)

    def finish(self, **facts: Any) -> None:
        """Record facts of a measurement, and what it was asked to be (measured_as)."""
        asked = {"configuration": dict(self.configuration), "sources": self._record()["sources"]}
        self.mark("finished", **asked, **facts)

    def measured_as(self, wanted: Configuration, options: Mapping[str, Any]) -> Run:
        """The same run, to be measured as `wanted` and the reading `options` say; its record says so after (finish)."""
        settings = _measured_by(wanted["settings"], self.configuration["settings"])
        sources = self.sources and {
            **self.sources,
            "options": _measured_by(options, self.sources["options"]),
        }
        return replace(self, configuration={**self.configuration, "settings": settings}, sources=sources)

    def write_history(self, history: Iterable[Mapping[str, Any]]) -> None:
        """Replace metrics.jsonl. Whole each time: a resumed run rewrites the steps after its checkpoint."""
        lines = "".join(f"{json.dumps(dict(entry))}\n" for entry in history)
        write_bytes(self.path / "metrics.jsonl", lines.encode())

    @property
    def history(self) -> list[dict[str, Any]]:
        """The entries of metrics.jsonl: `step`, and `loss` or `eval_<metric>`."""
        path = self.path / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint that was written to its end. transformers writes trainer_state.json last."""
        steps = {path.name.partition("-")[2]: path for path in self.checkpoints.glob("checkpoint-*")}
        found = [steps[step] for step in sorted(filter(str.isdecimal, steps), key=int, reverse=True)]
        return next((path for path in found if checkpoint_state(path) is not None), None)

    def _record(self) -> dict[str, Any]:
        return {
            "created": self.created,
            "configuration": dict(self.configuration),
            "environment": dict(self.environment),
            "sources": None if self.sources is None else dict(self.sources),
        }


def start(
    configuration: Configuration,
    environment: Mapping[str, Any],
    *,
    name: str,
    path: Path | None = None,
    sources: Mapping[str, Any] | None = None,
) -> Run:
    """Make a new run folder: `path`, or runs/<name>-<time>. Raises Conflict where `path` holds anything."""
    now = datetime.now(UTC)
    if path is None:
        path = _unused(RUNS / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}-{now:%Y%m%d-%H%M%S}")
    else:
        check_unused(path)
    created = now.isoformat(timespec="microseconds")
    run = Run(path, plain(configuration), plain(environment), created, sources and plain(sources))
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {path}: {error.strerror or error}") from error
    run.mark("started")
    return run


def check_unused(path: Path) -> None:
    """Raises Conflict where a new run's folder holds anything."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise Conflict(f"{path} is not empty", hint="Resume it with --resume, or choose another folder.")


def load(path: Path) -> Run:
    """The run in a folder. Raises InvalidSettings where there is none."""
    record = _read(path)
    return Run(path, record["configuration"], record["environment"], record["created"], record.get("sources"))


def resumable(configuration: Configuration, *, path: Path | None = None, notes: Sequence[str] = ()) -> Run:
    """The run to go on with: the one in `path`, else the latest unfinished one of this configuration under
    runs/. How much of it is measured at the end may be another (Run.measured_as).

    Raises InvalidSettings naming each field that differs, or where there is no run at all; and that the rows for validation
    are chosen otherwise than they were, by the run's notes and `notes`, those of now.
    """
    wanted = plain(configuration)
    if path is not None:
        run = load(path)
        if differing := learning_otherwise(run.configuration, wanted):
            hint = "Give the settings of that run, or train anew without --resume."
            if otherwise := split_otherwise(run, notes):
                differing, hint = [otherwise, *differing], f"Train anew without --resume{_as_grouped(run)}."
            raise InvalidSettings(f"cannot resume {path}: {'; '.join(differing)}", hint=hint)
        return run
    runs = sorted(_readable(RUNS), key=lambda run: run.created, reverse=True)
    for run in runs:
        if run.state != "finished" and not learning_otherwise(run.configuration, wanted):
            return run
    why, instead = _why_none(runs, wanted, notes)
    raise InvalidSettings(f"nothing to resume under {RUNS}/: {why}", hint=f"Train without --resume{instead}.")


def differences(was: Configuration, now: Configuration, prefix: str = "") -> list[str]:
    """In words, each field whose value differs between two configurations. Where data lay does not count."""
    found = []
    for field in sorted({*was, *now}):
        name = f"{prefix}{field}"
        old, new = (each.get(field, _UNSAID.get(name)) for each in (was, now))
        if name.startswith("data.") and field == "source":
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{name}.")
        elif old != new:
            found.append(f"{name} was {old!r}, is now {new!r}")
    return found


def split_otherwise(run: Run, notes: Sequence[str]) -> str | None:
    """In words, how the rows that are set aside for validation were chosen in `run` and are now, as `notes` say, where that
    differs: other rows are learnt then, though the data are the same."""
    was, now = (set_aside_by(said) for said in (run.fact("notes") or (), notes))
    if was is None or now is None or was == now:
        return None
    return f"the rows set aside for validation were chosen {was!r}, and are now chosen {now!r}"


def _measured_by(now: Mapping[str, Any], was: Mapping[str, Any]) -> dict[str, Any]:
    """`was`, with what it is measured by as `now` has it, or has not."""
    kept = {name: value for name, value in was.items() if name not in _OF_MEASURING}
    return kept | {name: now[name] for name in _OF_MEASURING if name in now}


def learning_otherwise(was: Configuration, now: Configuration) -> list[str]:
    """In words, as `differences`, what keeps a run from going on: all but what it is measured by."""
    measuring = tuple(f"settings.{name} " for name in _OF_MEASURING)
    return [words for words in differences(was, now) if not words.startswith(measuring)]


def checkpoint_state(checkpoint: Path) -> dict[str, Any] | None:
    """trainer_state.json of a checkpoint, or None where it was not written to its end."""
    try:
        state: dict[str, Any] = json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return None
    return state


def _readable(folder: Path) -> Iterator[Run]:
    """The runs in a folder; what else is in it is passed over."""
    for file in folder.glob("*/run.json"):
        with suppress(InvalidSettings):
            yield load(file.parent)


def _why_none(runs: list[Run], wanted: Configuration, notes: Sequence[str]) -> tuple[str, str]:
    """Why no run can be gone on with, and what else would do, to be put after "Train without --resume"."""
    if not runs:
        return "there is no run", ""
    latest, instead = runs[0], ""
    differing = learning_otherwise(latest.configuration, wanted)
    if not differing:
        return f"{latest.path.name} is finished", ""
    if otherwise := split_otherwise(latest, notes):
        differing, instead = [otherwise, *differing], _as_grouped(latest)
    return f"the latest, {latest.path.name}, differs: {'; '.join(differing)}", instead


def _as_grouped(run: Run) -> str:
    """What chooses the rows for validation as `run` did, where it was told; what went by the task's own rule may have no
    setting, as that of another version has none."""
    column = ((run.sources or {}).get("options") or {}).get("group_column")
    return "" if column is None else f", or with group_column={column!r} as that run"


def _read(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((path / "run.json").read_text())
        if not all(isinstance(record[name], dict) for name in ("configuration", "environment")):
            raise ValueError("not a run's")
        _ = record["created"], record["state"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InvalidSettings(
            f"{path} is not the folder of a run: no readable run.json",
            hint="Give a folder made by `adapt train`.",
        ) from error
    return record


def _unused(path: Path) -> Path:
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def _json(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back, so that what is compared with a file compares equal (tuples become lists)."""
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain
