"""The table, the goals and the learning curves from the runs that were kept. Measures nothing."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, machine, print_table
from benchmarks.quality.tasks import TASKS, Task

Run = Mapping[str, Any]

_COLOURS = {"full": "#444444", "lora": "#1f77b4", "peft": "#2ca02c", "lora-nf4": "#d95f02"}
_ALL_BUT_CHOSEN = "loss"  # of what is validated, lower is better


def report(folder: Path) -> None:
    """Print it, and write results/quality.json and a picture a task."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    rows, trials = [], []
    for name, task in TASKS.items():
        of_task = [run for run in found if run["task"] == name]
        trials += [_trial(run) for run in of_task if run["seed"] == 0 and run["way"] != "base"]
        chosen = {way: _chosen(of_task, way, task) for way in ("full", *_COLOURS, "base")}
        rows += [_row(name, way, task, chosen) for way in chosen if chosen[way]]
        _picture(name, [run for way in _COLOURS for run in chosen[way]])
    if not rows:
        return
    print_table(trials)
    print_table(rows)
    document = {
        "command": "python -m benchmarks.quality",
        "machine": machine(),
        "rows": rows,
        "trials": trials,
    }
    (RESULTS / "quality.json").write_text(json.dumps(document, indent=2) + "\n")


def best(runs: Sequence[Run]) -> Run:
    """The run that is best on the validation split."""
    (name,) = runs[0]["validation"]
    sign = -1 if name == _ALL_BUT_CHOSEN else 1
    return max(runs, key=lambda run: sign * run["validation"][name]["value"])


def _chosen(runs: Sequence[Run], way: str, task: Task) -> list[Run]:
    """The runs of a way, by seed: our own at the recipe's defaults, of the others those that are best with seed 0."""
    own = [run for run in runs if run["way"] == way and not run["set"]]
    if way.startswith("lora"):
        return sorted((run for run in own if run["rate"] == task.rate), key=lambda run: run["seed"])
    first = [run for run in own if run["seed"] == 0]
    if not first:
        return []
    rate = first[0]["rate"] if way == "base" else best(first)["rate"]
    return sorted((run for run in own if run["rate"] == rate), key=lambda run: run["seed"])


def _trial(run: Run) -> dict[str, Any]:
    ((name, value),) = run["validation"].items()
    settings = " ".join(f"{key}={value}" for key, value in run["set"].items())
    return {
        "task": run["task"],
        "way": run["way"],
        "rate": run["rate"],
        "set": settings,
        "validated": name,
        "value": value["value"],
    }


def _row(name: str, way: str, task: Task, chosen: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    runs = chosen[way]
    measured = [run["test"][task.metric] for run in runs]
    values = [one["value"] for one in measured]
    return {
        "task": name,
        "way": way,
        "metric": task.metric,
        "rate": runs[0]["rate"],
        "seeds": len(runs),
        "mean": statistics.mean(values),
        "low": statistics.mean(one["low"] for one in measured),
        "high": statistics.mean(one["high"] for one in measured),
        "spread": max(values) - min(values),
        "over full": _points(task, values, chosen["full"], way != "full"),
        "over peft": _points(task, values, chosen["peft"], way.startswith("lora")),
        "n": measured[0]["n"],
        "share of base": runs[0]["share of base"],
        "minutes": round(statistics.mean(run["processor seconds"] for run in runs) / 60, 1),
    }


def _points(task: Task, values: Sequence[float], against: Sequence[Run], asked: bool) -> float | str:
    """How many points better than the mean of `against`; empty where that is not asked or not there."""
    if not asked or not against:
        return ""
    theirs = statistics.mean(float(run["test"][task.metric]["value"]) for run in against)
    return round((statistics.mean(values) - theirs) / task.point, 2)


def _picture(name: str, runs: Sequence[Run]) -> None:
    """Learning curves of every run: an early stop shows as a curve that still rises."""
    if not runs:
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    seen = set[str]()
    for run in runs:
        steps, values = zip(*run["curve"], strict=True)
        way = run["way"]
        axes.plot(steps, values, color=_COLOURS[way], alpha=0.8, label=None if way in seen else way)
        seen.add(way)
    (validated,) = runs[0]["validation"]
    axes.set(xlabel="step", ylabel=f"validation {validated}", title=f"{name}: a line a seed")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(RESULTS / f"quality-{name}.png", dpi=90)
