"""One run of one way: trained, and measured as it is served.

Does not choose settings or keep results.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import set_seed

from adapthub.adapters.base import Base, load_base
from adapthub.adapters.heads import task_model
from adapthub.recipes import run as run_folders
from adapthub.recipes.adaptation import adapt, precision
from adapthub.recipes.evaluation import Answers, measured
from adapthub.recipes.job import Job, Split, prepare
from adapthub.recipes.loop import fit
from adapthub.recipes.outcome import Outcome, manifest_of
from adapthub.recipes.recipe import GeneratingRecipe, LabellingRecipe, Row, lengths_of, selects
from adapthub.recipes.served import trained_outputs
from adapthub.runtime.runtime import Runtime
from benchmarks.common import machine
from benchmarks.quality.tasks import Task
from benchmarks.quality.whole import whole

_AT_ONCE = 32


def run(task: Task, way: str, settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Train `way` of `task` with `settings` beside the budget, and measure it on the test split."""
    start, computed = time.perf_counter(), time.process_time()
    quantize = "nf4" if way == "lora-nf4" else None
    job = prepare(
        task.recipe,
        task.data(),
        base=task.base,
        quantize=quantize,
        method="lora",
        validation=None,
        test=None,
        seed=seed,
        given={"patience": 0, **task.budget, **settings},
    )
    some = {
        split: job.splits[split].some(rows)
        for split, rows in zip(("validation", "test"), task.rows, strict=True)
        if rows is not None
    }
    job = replace(job, splits={**job.splits, **some})
    base = load_base(task.base, quantize=quantize)
    job = job.computing_in(precision(job.settings.precision, base.device, base.dtype))
    set_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        kind = {"full": _full, "base": _untrained}.get(way, _adapter)
        found = kind(job, base, Path(folder))
    return {
        "settings": job.hyperparameters,
        **found,
        "seconds": round(time.perf_counter() - start),
        "processor seconds": round(time.process_time() - computed),
        "machine": machine(),
    }


def _adapter(job: Job, base: Base, folder: Path) -> dict[str, Any]:
    """An adapter, measured as it is served."""
    adaptation = adapt(base, job.task, job.labels, job.method, job.adapter)
    run = run_folders.start(job.configuration, {}, name="adapter", path=folder / "run")
    try:
        set_seed(job.seed)
        fit(job, base, adaptation, run, console=None)
        measured_alone = {name: split for name, split in job.splits.items() if name != "validation"}
        outcome = Outcome(replace(job, splits=measured_alone), base, run, None)
        outcome.save(adaptation)
    finally:
        adaptation.release()
    outcome.verify()
    artifact, metrics = outcome.measure()
    size = artifact.files["adapter_model.safetensors"].size
    weights = sum(parameter.numel() for parameter in base.model.parameters())
    return {
        **_learning(job, run.history),
        "test": _plain(metrics["test"]),
        "bytes": size,
        "share of base": size / (4 * weights),
    }


def _full(job: Job, base: Base, folder: Path) -> dict[str, Any]:
    """Every weight, by the loop that trains adapters."""
    adaptation = whole(base, job)
    run = run_folders.start(job.configuration, {}, name="full", path=folder / "run")
    set_seed(job.seed)
    fit(job, base, adaptation, run, console=None)
    adaptation.model.requires_grad_(False)
    size = 4 * sum(parameter.numel() for parameter in adaptation.model.parameters())
    test = _measure(job, job.splits["test"], base, adaptation.model)
    return {**_learning(job, run.history), "test": test, "bytes": size, "share of base": 1.0}


def _untrained(job: Job, base: Base, folder: Path) -> dict[str, Any]:
    """The base alone."""
    model = task_model(base, job.task, job.labels)
    return {
        "validation": {},
        "curve": [],
        "test": _measure(job, job.splits["test"], base, model),
        "bytes": 0,
        "share of base": 0.0,
    }


def _measure(job: Job, split: Split, base: Base, model: Any) -> dict[str, Any]:
    """Metrics of a model that is no adapter."""
    outputs = _outputs(job, split.encoded.rows, base, model)
    texts = None
    if isinstance(job.recipe, GeneratingRecipe):
        with Runtime(base) as runtime:
            texts = job.recipe.answers(runtime, None, split.dataset, job.encoding)
    answers = Answers(outputs, texts)
    found = measured(job.recipe, manifest_of(job, base, {}), split.dataset, split.encoded, answers)
    return _plain(found.estimates())


def _outputs(job: Job, rows: Sequence[Row], base: Base, model: PeftModel) -> list[Any]:
    """Rows of similar lengths together."""
    lengths = lengths_of(rows)
    order = sorted(range(len(rows)), key=lambda at: -lengths[at])
    collate = job.recipe.collator(job.processor)
    outputs: dict[int, Any] = {}
    for start in range(0, len(order), _AT_ONCE):
        batch = order[start : start + _AT_ONCE]
        some = [rows[at] for at in batch]
        found = trained_outputs(job.recipe, base, model, some, collate, job.encoding)
        outputs |= zip(batch, found, strict=True)
    return [outputs[at] for at in range(len(rows))]


def _learning(job: Job, history: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What was evaluated on the way, and the best of it, whose weights were kept."""
    name = selects(job.recipe)
    curve = [(entry["step"], entry[f"eval_{name}"]) for entry in history if f"eval_{name}" in entry]
    best = (max if isinstance(job.recipe, LabellingRecipe) else min)(value for _, value in curve)
    return {"validation": {name: {"value": best}}, "curve": curve}


def _plain(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: vars(estimate) for name, estimate in metrics.items()}
