"""Adapters against full fine-tuning of the same base, and against PEFT's examples: same data, order, steps and loop.

    python -m benchmarks.quality [--task ner] [--way full lora peft] [--seed 0 1 2] [--set rank=16] [--table]

  full      every weight of the base is trained, at the best of the task's rates
  lora      the recipe's LoRA adapter at the recipe's defaults, over the unquantised base
  lora-nf4  the same over the nf4 base
  peft      LoRA with the hyperparameters of PEFT's own example for that kind of task (examples); the best of several
  base      the base alone, where it can do the task

What is best is found on the validation split with seed 0; nothing is chosen on the test split. Each run is kept as
`results/quality/TASK-WAY-RATE-SEED.json` with its learning curve, so the program can be stopped and goes on where it was.
`--set` tries other settings of `lora` than the recipe's: such runs are kept under their settings' names. `--table` runs
nothing: it prints what is there and writes `results/quality.json` and `results/quality-TASK.png`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapthub.recipes.catalog import find_recipe
from benchmarks.common import RESULTS
from benchmarks.quality.runs import run
from benchmarks.quality.table import best, report
from benchmarks.quality.tasks import FULL_HEAD, FULL_WARMUP, TASKS

WAYS = ("full", "lora", "peft", "lora-nf4", "base")
_USUAL = ("lora", "peft", "full", "base")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__.splitlines()[0])
    parser.add_argument("--task", nargs="*", default=list(TASKS), choices=TASKS)
    parser.add_argument("--way", nargs="*", default=list(_USUAL), choices=WAYS)
    parser.add_argument("--seed", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    folder = RESULTS / "quality"
    folder.mkdir(parents=True, exist_ok=True)
    if options.table:
        report(folder)
        return
    tried = dict(map(_setting, options.set))
    for seed in options.seed:
        for name in options.task:
            for way in options.way:
                _keep(folder, name, way, seed, tried)


def _keep(folder: Path, name: str, way: str, seed: int, tried: Mapping[str, Any]) -> None:
    """Run what is not there yet."""
    if way == "base":
        if TASKS[name].untrained:
            _kept_run(folder, name, way, {}, 0)
        return
    choices = _choices(name, way, tried)
    if seed == 0 or len(choices) == 1:
        for settings in choices:
            _kept_run(folder, name, way, settings, seed)
        return
    found: list[Mapping[str, Any]] = [_kept_run(folder, name, way, settings, 0) for settings in choices]
    _kept_run(folder, name, way, choices[found.index(best(found))], seed)


def _choices(name: str, way: str, tried: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The settings that a way tries: of all but `lora` as the task has them."""
    task = TASKS[name]
    defaults = find_recipe(task.recipe).defaults("lora")
    head = defaults.head_learning_rate is not None
    if way == "full":
        return [
            {
                "learning_rate": rate,
                "warmup": FULL_WARMUP,
                **({"head_learning_rate": FULL_HEAD} if head else {}),
            }
            for rate in task.rates
        ]
    if way == "peft":
        return [dict(example.settings(head=head)) for example in task.examples]
    return [{"learning_rate": task.rate, **tried}]


def _kept_run(folder: Path, name: str, way: str, settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The run's result: from its file, or run now and written there."""
    given = {key: value for key, value in settings.items() if key != "learning_rate"} if way == "lora" else {}
    rate = settings.get("learning_rate", 0.0)
    more = "".join(f",{key}={value}" for key, value in sorted(given.items()))
    path = folder / f"{name}-{way}-{rate:g}{more}-{seed}.json"
    if not path.exists():
        print(f"{path.stem} ...", file=sys.stderr, flush=True)
        result = run(TASKS[name], way, settings, seed)
        key = {"task": name, "way": way, "rate": rate, "set": given, "seed": seed}
        path.write_text(json.dumps({**key, **result}, indent=1) + "\n")
    kept: dict[str, Any] = json.loads(path.read_text())
    return kept


def _setting(given: str) -> tuple[str, Any]:
    """NAME=VALUE, the value as JSON where it is that."""
    name, _, value = given.partition("=")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


if __name__ == "__main__":
    main()
