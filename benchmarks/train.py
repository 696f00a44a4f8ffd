"""LoRA training, ours against the plain script with PEFT and the Trainer: supervised tokens a second, memory, loss.

    python -m benchmarks.train [--part chat] [--rounds 2]

Both train the same LoRA on the same rows of the same base with the same optimiser, schedule and number of steps, each in a
process of its own, in turn. `plain` is the script as PEFT's examples write it: the Trainer's own order of rows, padded
batches, the model's own loss; `plain bf16` with bf16=True, in which ours computes by itself where the processor has it. The
first step is not counted. On a CPU time is the process's own, on one thread, so that others who compute do not count.
`validation` is the loss of the same validation rows at the end, computed alike for all.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from adapthub.adapters.base import Base, load_base
from adapthub.adapters.heads import task_model
from adapthub.adapters.methods import method_config
from adapthub.adapters.samples import fetch
from adapthub.adapters.tasks import TEXT_GENERATION
from adapthub.recipes.adaptation import adapt, precision
from adapthub.recipes.economy import economies
from adapthub.recipes.job import Job, prepare
from adapthub.recipes.language_loss import LanguageLoss
from adapthub.recipes.rates import Rates
from adapthub.recipes.trainer import AdapterTrainer
from benchmarks.common import print_table, write_results

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = ("ours", "plain", "plain bf16")
_UNCOUNTED = 1
_VALIDATED = 32  # rows


@dataclass(frozen=True)
class Part:
    """One base, and data for it."""

    task: str
    sample: str
    files: tuple[str, str]
    base: str
    batch_size: int
    max_length: int
    steps: int


PARTS = {
    "chat": Part(
        "chat", "instructions-en", ("train.jsonl", "validation.jsonl"), "package:smollm2-135m", 4, 256, 6
    ),
    "ner": Part("ner", "conll2003", ("train.conll", "validation.conll"), "package:minilm", 32, 256, 40),
}


class _Clock(TrainerCallback):
    """Seconds of each step, and the loss that it logs."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._began = _now()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seconds.append(_now() - self._began)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.losses += [logs["loss"]] if "loss" in logs else []


def _now() -> float:
    """Seconds: by the clock on a GPU, of this process's work on a CPU."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--program", choices=PROGRAMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    parts = options.part or list(PARTS)
    if options.program:
        print(json.dumps(_measure(PARTS[parts[0]], options.program)))
        return
    rows = [row for part in parts for row in _compared(part, options.rounds)]
    print_table(rows)
    command = f"python -m benchmarks.train --rounds {options.rounds}"
    print(write_results("train" if options.part is None else f"train-{'-'.join(parts)}", command, rows))


def _compared(part: str, rounds: int) -> Iterator[dict[str, Any]]:
    found: dict[str, list[dict[str, Any]]] = {program: [] for program in PROGRAMS}
    for _ in range(rounds):
        for program in PROGRAMS:
            found[program].append(_child(part, program))
    for program, runs in found.items():
        pairs = zip(found["ours"], runs, strict=True)
        yield {
            "part": part,
            "program": program,
            "precision": runs[0]["precision"],
            "tokens/s": statistics.median(run["rate"] for run in runs),
            "ours/this": statistics.median(ours["rate"] / run["rate"] for ours, run in pairs),
            "padding": runs[0]["padding"],
            "peak MB": max(run["peak"] for run in runs) / 1e6,
            "first loss": runs[0]["losses"][0],
            "validation": runs[0]["validation"],
        }


def _child(part: str, program: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.train", "--part", part, "--program", program]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(ended.stderr)
    document: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return document


def _measure(part: Part, program: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    base = load_base(part.base, dtype="float32")
    data = fetch(part.sample)
    job = prepare(
        part.task,
        data / part.files[0],
        base=part.base,
        quantize=None,
        method="lora",
        validation=data / part.files[1],
        test=None,
        seed=0,
        given={"max_length": part.max_length, "batch_size": part.batch_size, "max_steps": part.steps},
    )
    job = job.computing_in(precision("auto", base.device, base.dtype))
    torch.manual_seed(0)
    clock, seen = _Clock(), _Seen(job)
    with tempfile.TemporaryDirectory() as folder:
        train = _ours if program == "ours" else _plain
        model = train(job, base, clock, seen, folder, bf16=program != "plain")
    counted = slice(_UNCOUNTED, None)
    return {
        "precision": job.settings.precision if program == "ours" else "bf16" if "bf16" in program else "fp32",
        "rate": sum(seen.targets[: part.steps][counted]) / sum(clock.seconds[counted]),
        "padding": 1 - sum(seen.tokens) / sum(seen.padded),
        "peak": _peak(),
        "losses": clock.losses,
        "validation": _validation(job, model),
    }


class _Seen:
    """The collator, counting what it makes."""

    def __init__(self, job: Job) -> None:
        self._collate = job.recipe.collator(job.processor)
        self.targets: list[int] = []
        self.tokens: list[int] = []
        self.padded: list[int] = []

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self._collate(rows)
        self.targets.append(int((batch["labels"] != -100).sum()))
        self.tokens.append(int(batch["attention_mask"].sum()))
        self.padded.append(batch["attention_mask"].numel())
        return batch


def _ours(job: Job, base: Base, clock: _Clock, seen: _Seen, folder: str, *, bf16: bool) -> Any:
    adaptation = adapt(base, job.task, job.labels, "lora", job.adapter)
    settings = job.settings
    rates = Rates(
        settings.learning_rate, settings.head_learning_rate, adaptation.head, 0, settings.weight_decay
    )
    generates = job.task == TEXT_GENERATION
    whole = cast(PreTrainedModel, adaptation.model.get_base_model())
    with economies(job, base, adaptation.model):
        AdapterTrainer(
            rates=rates,
            train_dataset=job.splits["train"].encoded.rows,
            model=adaptation.model,
            language=LanguageLoss.of(whole) if generates else None,
            args=_arguments(job, folder, bf16=settings.precision == "bf16"),
            data_collator=seen,
            callbacks=[clock],
        ).train()
    return adaptation.model


def _plain(job: Job, base: Base, clock: _Clock, seen: _Seen, folder: str, *, bf16: bool) -> Any:
    from peft import get_peft_model

    heads = () if job.task == TEXT_GENERATION else ("classifier",)
    config = method_config("lora", job.task, modules_to_save=heads, **job.adapter)
    model = get_peft_model(task_model(base, job.task, job.labels), config)
    Trainer(
        model=model,
        args=_arguments(job, folder, bf16=bf16),
        train_dataset=job.splits["train"].encoded.rows,
        data_collator=seen,
        callbacks=[clock],
    ).train()
    return model


def _arguments(job: Job, folder: str, *, bf16: bool) -> TrainingArguments:
    return TrainingArguments(
        output_dir=folder,
        max_steps=job.steps,
        per_device_train_batch_size=job.settings.batch_size,
        learning_rate=job.settings.learning_rate,
        weight_decay=job.settings.weight_decay,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        bf16=bf16,
    )


def _validation(job: Job, model: Any) -> float:
    """The mean loss of a target, in float32, one row at a time."""
    model.eval()
    split = job.splits["validation"].some(_VALIDATED)
    collate = job.recipe.collator(job.processor)
    shift = int(job.task == TEXT_GENERATION)
    total = count = 0.0
    for row in split.encoded.rows:
        batch = {name: value.to(model.device) for name, value in collate([dict(row)]).items()}
        labels = batch.pop("labels")[0, shift:]
        with torch.inference_mode():
            logits = model(**batch).logits[0].float()
        total += float(F.cross_entropy(logits[: len(labels)], labels, reduction="sum"))
        count += int((labels != -100).sum())
    return total / count


def _peak() -> int:
    """Bytes: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
