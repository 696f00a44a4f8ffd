"""Adapters against full fine-tuning of the same base under the same budget: same data, order, steps and loop.

    python -m benchmarks.quality [--task ner] [--way full lora lora-nf4] [--seed 0 1 2] [--table]

Every way tries its learning rates with seed 0 and goes on with the one that is best on the validation split; nothing is
chosen on the test split. Each run is kept as
`results/quality/TASK-WAY-RATE-SEED.json` with its learning curve, so the program can be stopped and goes on where it was.
`--table` only prints what is there and writes `results/quality.json` and `results/quality-TASK.png`.

  full      every weight of the base is trained
  lora      our `train` with the recipe's LoRA adapter over the unquantised base
  lora-nf4  the same over the nf4 base, at the rate that was best for lora
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from transformers import PreTrainedModel, set_seed

from adapthub.adapters.base import load_base
from adapthub.adapters.heads import head_modules, task_model
from adapthub.adapters.samples import fetch
from adapthub.recipes import run as runs
from adapthub.recipes import train
from adapthub.recipes.adaptation import Adaptation, precision
from adapthub.recipes.job import Job, Split, prepare
from adapthub.recipes.loop import fit
from adapthub.recipes.recipe import Row
from benchmarks.common import RESULTS, machine, print_table

BASE = "package:minilm"
WAYS = ("full", "lora", "lora-nf4")
_BATCH = 64


@dataclass(frozen=True)
class Task:
    """One row of the table: data, budget (the recipe's epochs and batch size), and the learning rates tried by each way.

    The head learns at a rate of its own: the recipe's for LoRA, `FULL_HEAD` for full fine-tuning.
    """

    recipe: str
    sample: str
    suffix: str
    metric: str
    budget: Mapping[str, Any]
    rates: Mapping[str, tuple[float, ...]]


FULL_HEAD = 1e-3
TASKS = {
    "ner": Task(
        recipe="ner",
        sample="conll2003",
        suffix="conll",
        metric="f1",
        budget={"epochs": 5, "batch_size": 32, "eval_steps": 220, "eval_rows": 500, "patience": 0},
        rates={"full": (1e-4, 5e-5, 2e-4), "lora": (1e-3, 2e-3, 3e-3)},
    ),
    "sentiment": Task(
        recipe="sentiment",
        sample="movie-reviews",
        suffix="csv",
        metric="accuracy",
        budget={"epochs": 3, "batch_size": 32, "eval_steps": 80, "eval_rows": 500, "patience": 0},
        rates={"full": (1e-4, 5e-5, 2e-4), "lora": (1e-3, 2e-3, 3e-3)},
    ),
    "topics": Task(
        recipe="sentiment",
        sample="r8",
        suffix="csv",
        metric="accuracy",
        budget={
            "epochs": 3,
            "batch_size": 32,
            "max_length": 64,
            "eval_steps": 70,
            "eval_rows": 500,
            "patience": 0,
        },
        rates={"full": (1e-4,), "lora": (5e-4, 1e-3, 2e-3)},
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", nargs="*", default=list(TASKS), choices=TASKS)
    parser.add_argument("--way", nargs="*", default=list(WAYS), choices=WAYS)
    parser.add_argument("--seed", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    folder = RESULTS / "quality"
    folder.mkdir(parents=True, exist_ok=True)
    if not options.table:
        for name in options.task:
            for way in options.way:
                rate = _chosen_rate(folder, name, way)
                for seed in options.seed:
                    _kept_run(folder, name, way, rate, seed)
    _report(folder)


def _chosen_rate(folder: Path, name: str, way: str) -> float:
    """The rate with the best validation metric at seed 0."""
    way = "lora" if way == "lora-nf4" else way
    task = TASKS[name]
    tried = {rate: _kept_run(folder, name, way, rate, 0) for rate in task.rates[way]}
    return max(tried, key=lambda rate: tried[rate]["validation"][task.metric]["value"])


def _kept_run(folder: Path, name: str, way: str, rate: float, seed: int) -> dict[str, Any]:
    """The run's result: from its file, or run now and written there."""
    path = folder / f"{name}-{way}-{rate:g}-{seed}.json"
    if not path.exists():
        print(f"{name} {way} at {rate:g}, seed {seed}", file=sys.stderr, flush=True)
        result = _run(TASKS[name], way, rate, seed)
        key = {"task": name, "way": way, "rate": rate, "seed": seed}
        path.write_text(json.dumps({**key, **result}, indent=1) + "\n")
    kept: dict[str, Any] = json.loads(path.read_text())
    return kept


def _run(task: Task, way: str, rate: float, seed: int) -> dict[str, Any]:
    data = fetch(task.sample)
    splits = {split: data / f"{split}.{task.suffix}" for split in ("train", "validation", "test")}
    settings = {**task.budget, "learning_rate": rate}
    start, computed = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        if way == "full":
            result = _full(task, splits, settings, seed, Path(folder))
        else:
            result = _adapter(
                task, splits, settings, seed, Path(folder), "nf4" if way == "lora-nf4" else None
            )
    return {
        **result,
        "seconds": round(time.perf_counter() - start),
        "processor seconds": round(time.process_time() - computed),
        "machine": machine(),
    }


def _adapter(
    task: Task,
    splits: Mapping[str, Path],
    settings: Mapping[str, Any],
    seed: int,
    folder: Path,
    quantize: str | None,
) -> dict[str, Any]:
    result = train(
        task.recipe,
        splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        base=BASE,
        quantize=quantize,
        seed=seed,
        output=folder / "run",
        quiet=True,
        **settings,
    )
    weights = result.artifact.files["adapter_model.safetensors"].size
    return {
        "settings": result.run.configuration["settings"],
        **{split: _plain(metrics) for split, metrics in result.metrics.items()},
        "curve": _curve(result.run.history, task.metric),
        "bytes": weights,
        "share of base": weights / (fetch("minilm") / "model.safetensors").stat().st_size,
    }


def _full(
    task: Task, splits: Mapping[str, Path], settings: Mapping[str, Any], seed: int, folder: Path
) -> dict[str, Any]:
    """Every weight, by the loop that trains adapters."""
    base = load_base(BASE)
    job = prepare(
        task.recipe,
        splits["train"],
        base=BASE,
        quantize=None,
        method="lora",
        validation=splits["validation"],
        test=splits["test"],
        seed=seed,
        given={**settings, "head_learning_rate": FULL_HEAD},
    )
    job = job.computing_in(precision("auto", base.device, base.dtype))
    set_seed(seed)
    model = task_model(base, job.task, job.labels).requires_grad_(True)
    run = runs.start(job.configuration, {}, name="full", path=folder / "run")
    set_seed(seed)
    head = (
        *head_modules(model),
        *base.uninitialised,
    )  # as for an adapter: what the checkpoint has no weights for
    fit(job, base, Adaptation(cast(PeftModel, model), head), run, console=None)
    kept = (
        "learning_rate",
        "head_learning_rate",
        "epochs",
        "batch_size",
        "warmup",
        "weight_decay",
        "precision",
    )
    return {
        "settings": {name: vars(job.settings)[name] for name in kept},
        **{split: _measure(job, job.splits[split], model) for split in ("validation", "test")},
        "curve": _curve(run.history, task.metric),
        "bytes": sum(parameter.numel() * 4 for parameter in model.parameters()),
        "share of base": 1.0,
    }


def _measure(job: Job, split: Split, model: PreTrainedModel) -> dict[str, Any]:
    """Metrics of the trained model in float32, as adapters are measured."""
    rows = split.encoded.rows
    order = sorted(range(len(rows)), key=lambda at: len(rows[at]["input_ids"]))
    outputs: dict[int, Any] = {}
    for start in range(0, len(order), _BATCH):
        batch = order[start : start + _BATCH]
        outputs |= zip(batch, _logits(job, [rows[at] for at in batch], model), strict=True)
    ordered = [outputs[at] for at in range(len(rows))]
    statistics_ = job.recipe.measure(ordered, split.dataset, split.encoded, job.labels)
    return _plain(statistics_.estimates())


def _logits(job: Job, rows: Sequence[Row], model: PreTrainedModel) -> Iterable[Any]:
    batch = job.recipe.collator(job.tokenizer)([dict(row) for row in rows])
    with torch.inference_mode():
        logits = model.eval()(**{name: batch[name] for name in batch if name != "labels"}).logits.numpy()
    if logits.ndim == 2:
        return list(logits)
    return [output[: len(row["input_ids"])] for row, output in zip(rows, logits, strict=True)]


def _plain(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: vars(estimate) for name, estimate in metrics.items()}


def _curve(history: Iterable[Mapping[str, Any]], metric: str) -> list[tuple[int, float]]:
    """(step, validation metric) at every evaluation."""
    return [(entry["step"], entry[f"eval_{metric}"]) for entry in history if f"eval_{metric}" in entry]


def _report(folder: Path) -> None:
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    rows, trials = [], []
    for name, task in TASKS.items():
        of_task = [run for run in found if run["task"] == name]
        trials += [_trial(run, task) for run in of_task if run["seed"] == 0]
        settings = {way: _by_settings([run for run in of_task if run["way"] == way], task) for way in WAYS}
        chosen = {way: next(iter(runs_), []) for way, runs_ in settings.items()}
        for way in WAYS:
            # The chosen ones first, and whatever else was run with several seeds.
            rows += [
                _row(name, way, task, runs_, chosen["full"])
                for place, runs_ in enumerate(settings[way])
                if place == 0 or len(runs_) > 1
            ]
        _picture(name, task, [run for way in WAYS for run in chosen[way]])
    if rows:
        print_table(trials)
        print_table(rows)
        document = {
            "command": "python -m benchmarks.quality",
            "machine": machine(),
            "rows": rows,
            "rates": trials,
        }
        (RESULTS / "quality.json").write_text(json.dumps(document, indent=2) + "\n")


def _by_settings(found: Sequence[Mapping[str, Any]], task: Task) -> list[list[Mapping[str, Any]]]:
    """The runs of a way by rate and LoRA+ ratio: those first whose run with seed 0 is best on validation."""
    groups: dict[tuple[float, float], list[Mapping[str, Any]]] = {}
    for run in sorted(found, key=lambda run: run["seed"]):
        groups.setdefault((run["rate"], _ratio(run)), []).append(run)
    with_seed_0 = [group for group in groups.values() if group[0]["seed"] == 0]
    return sorted(with_seed_0, key=lambda group: -group[0]["validation"][task.metric]["value"])


def _ratio(run: Mapping[str, Any]) -> float:
    """How many times faster LoRA's B learnt than its A."""
    return float(run["settings"].get("lora_plus_ratio", 1))


def _trial(run: Mapping[str, Any], task: Task) -> dict[str, Any]:
    return {
        "task": run["task"],
        "way": run["way"],
        "rate": run["rate"],
        "LoRA+": _ratio(run),
        "validation": run["validation"][task.metric]["value"],
    }


def _row(
    name: str,
    way: str,
    task: Task,
    chosen: Sequence[Mapping[str, Any]],
    full: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    values = [run["test"][task.metric]["value"] for run in chosen]
    against = [run["test"][task.metric]["value"] for run in full]
    return {
        "task": name,
        "way": way,
        "rate": chosen[0]["rate"],
        "LoRA+": _ratio(chosen[0]),
        "metric": task.metric,
        "seeds": len(values),
        "mean": statistics.mean(values),
        "spread": max(values) - min(values),
        "against full": statistics.mean(values) - statistics.mean(against) if against else None,
        "n": chosen[0]["test"][task.metric]["n"],
        "bytes": chosen[0]["bytes"],
        "share of base": chosen[0]["share of base"],
        "minutes": round(statistics.mean(run["processor seconds"] for run in chosen) / 60, 1),
    }


def _picture(name: str, task: Task, runs: list[dict[str, Any]]) -> None:
    """Learning curves of every run: an early stop shows as a curve that still rises."""
    if not runs:
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for colour, way in zip(("#444444", "#1f77b4", "#d95f02"), WAYS, strict=True):
        for index, run in enumerate(run for run in runs if run["way"] == way):
            steps, values = zip(*run["curve"], strict=True)
            axes.plot(steps, values, color=colour, alpha=0.8, label=way if index == 0 else None)
    axes.set(
        xlabel="step",
        ylabel=f"validation {task.metric}",
        title=f"{name}: {task.sample}, MiniLM-L6, a line a seed",
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(RESULTS / f"quality-{name}.png", dpi=120)


if __name__ == "__main__":
    main()
