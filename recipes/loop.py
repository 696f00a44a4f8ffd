"""The training loop of one job: transformers' Trainer set up, run or resumed, and its best weights put in
place.

Does not load bases or write artifacts. The order of batches, the optimiser and the schedule are in trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from peft import set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations.integration_utils import TensorBoardCallback

from adapthub.adapters.errors import AdaptHubError, StorageError, TrainingError
from adapthub.adapters.memory import memory_errors
from adapthub.adapters.tasks import TEXT_GENERATION
from adapthub.recipes.adaptation import Adaptation, GradientCheck
from adapthub.recipes.best_step import breaks_tie, last_loss
from adapthub.recipes.economy import economies
from adapthub.recipes.interrupt import StopAtStep
from adapthub.recipes.job import Job, Split
from adapthub.recipes.language_loss import LanguageLoss
from adapthub.recipes.processes import ALONE, Processes
from adapthub.recipes.progress import ProgressBar
from adapthub.recipes.rates import Rates, freeze_a
from adapthub.recipes.recipe import (
    Augmenting,
    Collator,
    LabellingRecipe,
    OwnLoss,
    PreferringRecipe,
    Row,
    Rows,
    lengths_of,
    selects,
)
from adapthub.recipes.run import Run, checkpoint_state
from adapthub.recipes.settings import LORA_FA, OPTIMIZERS
from adapthub.recipes.sharding import shard
from adapthub.recipes.spec_augment import spares_the_short
from adapthub.recipes.trainer import AdapterTrainer

if TYPE_CHECKING:
    from rich.console import Console

    from adapthub.adapters.base import Base

# torch.save says no more than that its writer failed.
_WRITE_SIGNS = ("inline_container", "PytorchStreamWriter", "iostream error")
_TIMINGS = ("_runtime", "_per_second")


def fit(
    job: Job,
    base: Base,
    adaptation: Adaptation,
    run: Run,
    *,
    console: Console | None,
    callbacks: Sequence[TrainerCallback] = (),
    processes: Processes = ALONE,
) -> None:
    """Train to the end, from the run's last checkpoint if it has one, and leave the best weights in the
    model.

    The best are those of the evaluation with the highest first metric (best_step), or with the lowest loss where the recipe
    generates; without validation data, the last. Of several `processes` the first alone writes and shows.
    Raises StoppedAtStep (a signal; the checkpoint is written), OutOfMemory, TrainingError, StorageError.
    """
    if job.settings.optimizer == LORA_FA:
        freeze_a(adaptation.model)
    checkpoint = run.last_checkpoint()
    if checkpoint is not None and _has_ended(checkpoint):
        _restore_best(adaptation, run, checkpoint)
        return
    stop = StopAtStep(processes)
    bar = ProgressBar(console, selects(job.recipe)) if console is not None else None
    log = _event_log(run, checkpoint) if processes.first else None
    ours = [*_callbacks(job, adaptation, checkpoint), stop, *callbacks]
    if log is not None:
        ours = [_History(run), TensorBoardCallback(log), *ours]
    trainer = _trainer(job, base, adaptation, run, [*ours, bar] if bar else ours, processes)
    if processes.count > 1:
        processes.share_values([one for one in adaptation.model.parameters() if one.requires_grad])
        torch.manual_seed(job.seed + processes.index)  # each drops out other units
    try:
        with (
            stop,
            processes.together(),
            memory_errors("training", job.smaller),
            _disk_errors(run),
            economies(job, base, adaptation.model),
            spares_the_short(adaptation.model),
        ):
            if processes.shards:
                shard(adaptation.model, base)
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if processes.first:
            run.write_history(_without_timings(trainer.state.log_history))
    finally:
        # accelerate left an autocast around the forward pass, and a mark for which it would set none another time
        trainer.accelerator.unwrap_model(adaptation.model, keep_fp32_wrapper=False)
        adaptation.model._is_accelerate_prepared = False  # type: ignore[assignment]  # of a Module
        if log is not None:
            log.close()
        if bar:
            bar.close()


@contextmanager
def _disk_errors(run: Run) -> Iterator[None]:
    """Turn every way in which Python, torch and safetensors fail to write a checkpoint into StorageError; what else the
    system refuses meanwhile (a tracker's connection, a file of the data) into TrainingError."""
    try:
        yield
    except AdaptHubError:
        raise
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in _WRITE_SIGNS):
            raise
        if isinstance(error, OSError) and not _is_of(run, error):
            raise TrainingError(
                f"training was ended by {type(error).__name__}: {error}",
                hint=f"Resume it with --resume {run.path}.",
            ) from error
        raise StorageError(
            f"cannot write a checkpoint in {run.path}: {str(error).splitlines()[0]}",
            hint=f"Free some space, and resume with --resume {run.path}.",
        ) from error


def _is_of(run: Run, error: OSError) -> bool:
    """Whether it is about the run's own files, as far as it says."""
    if isinstance(error, (ConnectionError, TimeoutError)):
        return False
    return error.filename is None or run.path.absolute() in Path(str(error.filename)).absolute().parents


class _Hidden:
    """A collator without the attribute `tokenizer`, which transformers would save in every checkpoint."""

    def __init__(self, collate: Collator) -> None:
        self._collate = collate

    def __call__(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        return self._collate(rows)


class _History(TrainerCallback):
    """Writes metrics.jsonl with every checkpoint."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._run.write_history(_without_timings(state.log_history))


class _Patience(EarlyStoppingCallback):
    """Early stopping that waits until the metric has left zero: entity F1 stays there while every label is O. Where the
    metric stands still, a lower loss is progress (best_step)."""

    def check_metric_value(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metric_value: float
    ) -> None:
        if breaks_tie(state, metric_value, last_loss(state)):
            self.early_stopping_patience_counter = 0
        elif metric_value > 0 or state.best_metric:
            super().check_metric_value(args, state, control, metric_value)  # type: ignore[no-untyped-call]


class _Gradients(TrainerCallback):
    """Asks GradientCheck at the first two steps of a run."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._check = GradientCheck(model)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step < 2:
            self._check.see()
        if state.global_step == 1:
            self._check.require_all()


class _Metrics:
    """The recipe's metrics of a split from the Trainer's predictions, whose rows are in `order`."""

    def __init__(self, job: Job, recipe: LabellingRecipe, split: Split, order: Sequence[int]) -> None:
        self._job = job
        self._recipe = recipe
        self._split = split
        self._order = order

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        outputs: dict[int, Any] = {}
        lengths = lengths_of(self._split.encoded.rows)
        logits = (row for batch in prediction.predictions for row in batch)
        for at, output in zip(self._order, logits, strict=True):
            outputs[at] = output[: lengths[at]] if output.ndim > 1 else output
        ordered = [outputs[at] for at in range(len(outputs))]
        statistics = self._recipe.measure(ordered, self._split.dataset, self._split.encoded, self._job.labels)
        return statistics.values()


def _callbacks(job: Job, adaptation: Adaptation, checkpoint: Path | None) -> list[TrainerCallback]:
    callbacks: list[TrainerCallback] = []
    if checkpoint is None:
        callbacks.append(_Gradients(adaptation.model))
    if "validation" in job.splits and job.settings.patience:
        callbacks.append(_Patience(job.settings.patience))
    return callbacks


def _event_log(run: Run, checkpoint: Path | None) -> SummaryWriter:
    """TensorBoard's log, without the steps after the checkpoint that will be run again."""
    step = None if checkpoint is None else int(checkpoint.name.partition("-")[2]) + 1
    return SummaryWriter(str(run.tensorboard), purge_step=step)


def _trainer(
    job: Job,
    base: Base,
    adaptation: Adaptation,
    run: Run,
    callbacks: list[TrainerCallback],
    processes: Processes,
) -> Trainer:
    settings = job.settings
    validation = job.looked_at
    evaluated = _longest_first(validation) if validation else ()
    kind, arguments = _training(job)
    trainer = kind(
        processes=processes,
        rates=Rates(
            settings.learning_rate,
            settings.head_learning_rate,
            adaptation.head,
            settings.warmup_steps(job.rows),
            settings.weight_decay,
            settings.lora_plus_ratio,
            settings.optimizer,
        ),
        loss=partial(job.recipe.loss, settings=job.encoding) if isinstance(job.recipe, OwnLoss) else None,
        train_dataset=_learned(job),
        model=adaptation.model,
        language=LanguageLoss.of(cast(PreTrainedModel, adaptation.model.get_base_model()))
        if job.task == TEXT_GENERATION and not isinstance(job.recipe, PreferringRecipe)
        else None,
        args=_arguments(job, base, run, arguments),
        data_collator=_Hidden(job.recipe.collator(job.processor)),
        eval_dataset=Rows(validation.encoded.rows, evaluated) if validation else None,
        compute_metrics=_Metrics(job, job.recipe, validation, evaluated)
        if validation and isinstance(job.recipe, LabellingRecipe)
        else None,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _training(job: Job) -> tuple[Callable[..., Trainer], Callable[..., TrainingArguments]]:
    """The trainer and what makes its arguments."""
    if isinstance(job.recipe, PreferringRecipe):
        return job.recipe.training(job.processor, job.encoding, goes_on=job.parent is not None)
    return AdapterTrainer, TrainingArguments


def _learned(job: Job) -> Sequence[Row]:
    if isinstance(job.recipe, Augmenting):
        return job.recipe.augmented(job.splits["train"].encoded, job.encoding, job.seed)
    return job.taught


def _longest_first(split: Split) -> list[int]:
    """Places of the rows in the order in which they are evaluated: rows of similar lengths together."""
    order: list[int] = (-lengths_of(split.encoded.rows)).argsort(kind="stable").tolist()
    return order


def _arguments(job: Job, base: Base, run: Run, kind: Callable[..., TrainingArguments]) -> TrainingArguments:
    evaluates = "validation" in job.splits
    every = job.settings.steps_between_evaluations(job.rows)
    arguments = kind(
        output_dir=str(run.checkpoints),
        run_name=run.path.name,  # as trackers call it
        max_steps=job.steps,
        per_device_train_batch_size=job.settings.batch_size,
        per_device_eval_batch_size=job.settings.eval_batch_size,
        gradient_accumulation_steps=job.settings.gradient_accumulation,
        optim=OPTIMIZERS[job.settings.optimizer],
        learning_rate=job.settings.learning_rate,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=evaluates,
        metric_for_best_model=selects(job.recipe) if evaluates else None,
        greater_is_better=isinstance(job.recipe, LabellingRecipe) if evaluates else None,
        prediction_loss_only=not isinstance(job.recipe, LabellingRecipe),
        logging_steps=1,  # a mean over several steps would differ after a resume between them
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        seed=job.seed,
        use_cpu=base.device.type == "cpu",
        bf16=job.settings.precision == "bf16",
        fp16=job.settings.precision == "fp16",
        dataloader_pin_memory=base.device.type == "cuda",
        remove_unused_columns=False,
        label_names=["labels"],
        eval_do_concat_batches=False,
        restore_callback_states_from_checkpoint=True,
    )
    if base.device.type == "cuda":
        arguments._n_gpu = 1  # else transformers wraps the model in DataParallel over every visible GPU
    return arguments


def _has_ended(checkpoint: Path) -> bool:
    """Whether the run stopped at this checkpoint by itself: all steps done, or no progress any more."""
    state = _state(checkpoint)
    control = state.get("stateful_callbacks", {}).get("TrainerControl", {}).get("args", {})
    return state["global_step"] >= state["max_steps"] or bool(control.get("should_training_stop"))


def _restore_best(adaptation: Adaptation, run: Run, checkpoint: Path) -> None:
    best = _state(checkpoint)["best_global_step"]
    folder = run.checkpoints / f"checkpoint-{best}" if best else checkpoint
    set_peft_model_state_dict(adaptation.model, load_file(folder / "adapter_model.safetensors"))


def _state(checkpoint: Path) -> dict[str, Any]:
    """What transformers knows at a checkpoint that was written to its end, as a run's last one was."""
    state = checkpoint_state(checkpoint)
    assert state is not None
    return state


def _without_timings(history: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The history without seconds, which differ between equal runs, and without transformers' closing
    summary.
    """
    return [
        {name: value for name, value in entry.items() if not name.endswith(_TIMINGS)}
        for entry in history
        if "train_runtime" not in entry
    ]
