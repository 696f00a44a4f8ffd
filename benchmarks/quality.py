"""Adapters against full fine-tuning of the same base under the same budget: same data, order, steps and loop.

    python -m benchmarks.quality [--task ner] [--way full lora lora-nf4] [--seed 0 1 2] [--table]

Every run trains, measures the test split and is kept as `results/quality/TASK-WAY-SEED.json` with its learning curve, so
the program can be stopped and goes on where it was. `--table` only prints what is there and writes
`results/quality.json` and `results/quality-TASK.png`.

  full      every weight of the base is trained (at a lower learning rate of its own)
  lora      our `train` with a LoRA adapter over the unquantised base
  lora-nf4  the same over the nf4 base
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments, set_seed

from adapthub.adapters.base import load_base
from adapthub.adapters.heads import head_modules, task_model
from adapthub.adapters.samples import fetch
from adapthub.recipes import train
from adapthub.recipes.job import Job, Split, prepare
from adapthub.recipes.loop import _Hidden, _Metrics  # the same evaluation as our own runs
from adapthub.recipes.trainer import AdapterTrainer, Rates
from benchmarks.common import RESULTS, machine, print_table

BASE = "package:minilm"
WAYS = ("full", "lora", "lora-nf4")


@dataclass(frozen=True)
class Task:
    """One row of the table: data, budget, and the rates of each way.

    The rates come from a few NER trials that were compared on the first 1,500 test sentences, not on validation; sentiment
    reuses them untried. LoRA had more trials than full fine-tuning.
    """

    recipe: str
    sample: str
    suffix: str
    metric: str
    budget: Mapping[str, Any]
    full: Mapping[str, float]
    lora: Mapping[str, Any]


TASKS = {
    "ner": Task(
        recipe="ner",
        sample="conll2003",
        suffix="conll",
        metric="f1",
        budget={"max_steps": 2000, "batch_size": 8, "eval_steps": 250, "eval_rows": 400, "patience": 0},
        full={"learning_rate": 1e-4, "head_learning_rate": 1e-3},
        lora={
            "learning_rate": 5e-4,
            "head_learning_rate": 3e-3,
            "lora_plus_ratio": 8,
            "rank": 8,
            "alpha": 16,
        },
    ),
    "sentiment": Task(
        recipe="sentiment",
        sample="movie-reviews",
        suffix="csv",
        metric="accuracy",
        budget={"max_steps": 600, "batch_size": 16, "eval_steps": 100, "eval_rows": 400, "patience": 0},
        full={"learning_rate": 1e-4, "head_learning_rate": 1e-3},
        lora={
            "learning_rate": 5e-4,
            "head_learning_rate": 3e-3,
            "lora_plus_ratio": 8,
            "rank": 8,
            "alpha": 16,
        },
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
        for seed in options.seed:
            for name in options.task:
                for way in options.way:
                    path = folder / f"{name}-{way}-{seed}.json"
                    if not path.exists():
                        print(f"{name} {way} seed {seed}", file=sys.stderr)
                        result = _run(TASKS[name], way, seed)
                        path.write_text(
                            json.dumps({"task": name, "way": way, "seed": seed, **result}, indent=1) + "\n"
                        )
    _report(folder)


def _run(task: Task, way: str, seed: int) -> dict[str, Any]:
    data = fetch(task.sample)
    splits = {split: data / f"{split}.{task.suffix}" for split in ("train", "validation", "test")}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        if way == "full":
            result = _full(task, splits, seed, Path(folder))
        else:
            result = _adapter(task, splits, seed, Path(folder), "nf4" if way == "lora-nf4" else None)
    return {**result, "seconds": round(time.perf_counter() - start), "machine": machine()}


def _adapter(
    task: Task, splits: Mapping[str, Path], seed: int, folder: Path, quantize: str | None
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
        **task.budget,
        **task.lora,
    )
    weights = result.artifact.files["adapter_model.safetensors"].size
    return {
        "settings": {**task.budget, **task.lora},
        "test": {name: vars(estimate) for name, estimate in result.metrics["test"].items()},
        "curve": _curve(result.run.history, task.metric),
        "bytes": weights,
        "share of base": weights / (fetch("minilm") / "model.safetensors").stat().st_size,
    }


def _full(task: Task, splits: Mapping[str, Path], seed: int, folder: Path) -> dict[str, Any]:
    """Every weight, by the same Trainer, batches, schedule and evaluation as ours."""
    job = prepare(
        task.recipe,
        splits["train"],
        base=BASE,
        quantize=None,
        method="lora",
        validation=splits["validation"],
        test=splits["test"],
        seed=seed,
        given={**task.budget, **task.full},
    )
    base = load_base(BASE)
    set_seed(seed)
    model = task_model(base, job.recipe.task, job.labels).requires_grad_(True).train()
    settings = job.settings
    validation = _Metrics(job, job.splits["validation"].some(settings.eval_rows))
    trainer = AdapterTrainer(
        model=model,  # type: ignore[arg-type]  # the loop takes any model
        rates=Rates(
            settings.learning_rate,
            settings.head_learning_rate,
            head_modules(model),
            settings.warmup_steps(job.rows),
            settings.weight_decay,
        ),
        train_dataset=job.splits["train"].encoded.rows,
        eval_dataset=validation.rows,
        compute_metrics=validation,
        data_collator=_Hidden(job.recipe.collator(job.tokenizer)),
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=job.steps,
            per_device_train_batch_size=settings.batch_size,
            per_device_eval_batch_size=64,
            eval_strategy="steps",
            eval_steps=settings.eval_steps,
            save_strategy="steps",
            save_steps=settings.eval_steps,
            save_total_limit=1,
            load_best_model_at_end=True,
            metric_for_best_model=job.recipe.metrics[0],
            logging_steps=10,
            report_to=[],
            disable_tqdm=True,
            seed=seed,
            use_cpu=not torch.cuda.is_available(),
            remove_unused_columns=False,
            label_names=["labels"],
            eval_do_concat_batches=False,
        ),
    )
    trainer.train()
    return {
        "settings": {**task.budget, **task.full},
        "test": _measure(job, job.splits["test"], trainer),
        "curve": _curve(trainer.state.log_history, task.metric),
        "bytes": sum(parameter.numel() * 4 for parameter in model.parameters()),
        "share of base": 1.0,
    }


def _measure(job: Job, split: Split, trainer: AdapterTrainer) -> dict[str, Any]:
    metrics = _Metrics(job, split)
    trainer.compute_metrics = None
    prediction = trainer.predict(metrics.rows)
    outputs: dict[int, Any] = {}
    logits = (row for batch in prediction.predictions for row in batch)
    for at, row, output in zip(metrics._order, metrics.rows, logits, strict=True):
        outputs[at] = output[: len(row["input_ids"])] if output.ndim > 1 else output
    ordered = [outputs[at] for at in range(len(outputs))]
    statistics_ = job.recipe.measure(ordered, split.dataset, split.encoded, job.labels)
    return {name: vars(estimate) for name, estimate in statistics_.estimates().items()}


def _curve(history: list[dict[str, Any]], metric: str) -> list[tuple[int, float]]:
    """(step, validation metric) at every evaluation."""
    return [(entry["step"], entry[f"eval_{metric}"]) for entry in history if f"eval_{metric}" in entry]


def _report(folder: Path) -> None:
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    rows = []
    for name, task in TASKS.items():
        full = [r["test"][task.metric]["value"] for r in runs if (r["task"], r["way"]) == (name, "full")]
        for way in WAYS:
            chosen = [run for run in runs if (run["task"], run["way"]) == (name, way)]
            if not chosen:
                continue
            values = [run["test"][task.metric]["value"] for run in chosen]
            rows.append(
                {
                    "task": name,
                    "way": way,
                    "metric": task.metric,
                    "seeds": len(values),
                    "mean": statistics.mean(values),
                    "spread": max(values) - min(values),
                    "against full": statistics.mean(values) - statistics.mean(full) if full else float("nan"),
                    "n": chosen[0]["test"][task.metric]["n"],
                    "bytes": chosen[0]["bytes"],
                    "share of base": chosen[0]["share of base"],
                    "minutes": round(statistics.mean(run["seconds"] for run in chosen) / 60, 1),
                }
            )
        _picture(name, task, [run for run in runs if run["task"] == name])
    if rows:
        print_table(rows)
        document = {"command": "python -m benchmarks.quality", "machine": machine(), "rows": rows}
        (RESULTS / "quality.json").write_text(json.dumps(document, indent=2) + "\n")


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
