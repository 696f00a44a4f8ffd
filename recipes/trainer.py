"""transformers' Trainer, bent where adapters need it: seeded length groups, the rates of adapter and head, the loss of a
step over all its targets, early refusal.

The loop, evaluation, checkpoints, best model and resume are transformers'; the order of rows is length_groups', how fast
what learns is rates'. Does not read data, know tasks, show progress or write artifacts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset, Sampler, SequentialSampler
from transformers import Trainer

from adapthub.adapters.errors import TrainingError
from adapthub.adapters.heads import outputs_of
from adapthub.recipes.batches import IGNORED
from adapthub.recipes.best_step import breaks_tie
from adapthub.recipes.language_loss import LanguageLoss
from adapthub.recipes.length_groups import LengthGroups
from adapthub.recipes.parts import cuts_up, parts_of
from adapthub.recipes.processes import ALONE, Processes
from adapthub.recipes.rates import Rates, lora_fa, parameter_groups, schedule
from adapthub.recipes.recipe import Row, lengths_of
from adapthub.recipes.settings import LORA_FA
from adapthub.recipes.shares import shared_loader

if TYPE_CHECKING:
    from peft import PeftModel


class AdapterTrainer(Trainer):
    """transformers' Trainer over rows of plain ints (`input_ids`, ..., `labels`) and a PEFT model.

    The loss of a step is the mean over all targets of its batches, however they are accumulated. `language` computes it
    where the model generates, `loss` from the model's outputs and a batch where the model does not compute it.
    Of several `processes` each computes its share of every batch; the arguments' batch sizes are those of all together.
    Raises TrainingError where the loss stops being a number.
    """

    def __init__(
        self,
        *,
        model: PeftModel,
        rates: Rates,
        train_dataset: Sequence[Row],
        loss: Callable[[torch.Tensor, Mapping[str, torch.Tensor]], torch.Tensor] | None = None,
        language: LanguageLoss | None = None,
        processes: Processes = ALONE,
        **arguments: Any,
    ) -> None:
        super().__init__(model=model, train_dataset=train_dataset, **arguments)
        self.model_accepts_loss_kwargs = True  # so that it counts the targets of all batches of a step
        self._language = language
        self._loss = loss
        self._adapted = model
        self._rates = rates
        self._rows = train_dataset
        self._processes = processes
        self._failed = False
        self._unseen, self._shown = 0, 0  # rows of an evaluation that are to come, and of its last batch
        if processes.count > 1:
            # Neither DDP nor FSDP around the model: an adapter is small, and its gradients are averaged by us.
            accelerator = cast(Any, self.accelerator)
            accelerator.prepare_model = partial(accelerator.prepare_model, evaluation_mode=True)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of similar lengths, in an order that (seed, epoch) fixes."""
        batch_size = self.args.train_batch_size
        lengths, follow = lengths_of(self._rows), getattr(self._rows, "set_epoch", None)
        order = LengthGroups(lengths, batch_size, self.args.seed, follow)
        if self._processes.count > 1:
            return self._shared(self._rows, order, batch_size)
        loader: DataLoader[Any] = DataLoader(
            cast("Dataset[Any]", self._rows),
            batch_size=batch_size,
            sampler=order,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return cast("DataLoader[Any]", self.accelerator.prepare(loader))

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Batches in the order of the rows."""
        if self._processes.count == 1:
            return super().get_eval_dataloader(eval_dataset)
        rows = cast("Sequence[Row]", self.eval_dataset if eval_dataset is None else eval_dataset)
        return self._shared(rows, SequentialSampler(rows), self.args.eval_batch_size)

    def _shared(self, rows: Sequence[Row], order: Sampler[int], batch_size: int) -> DataLoader[Any]:
        device = self.accelerator.device
        return shared_loader(rows, order, batch_size, self.data_collator, self._processes, device)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with groups for adapter and head; vectors (biases, norms, magnitudes) do not decay."""
        if self.optimizer is None and self._rates.optimizer == LORA_FA:
            self.optimizer = lora_fa(self._adapted, self._rates)
        if self.optimizer is None:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args)
            self.optimizer = kind(parameter_groups(self._adapted, self._rates), **options)
        return cast(torch.optim.Optimizer, self.optimizer)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """Linear warm-up and linear decay to zero. The first step has a rate above zero, unlike
        transformers'.
        """
        warmup = self._rates.warmup_steps
        if self.lr_scheduler is None:
            self.lr_scheduler = LambdaLR(
                self.create_optimizer() if optimizer is None else optimizer,
                lambda step: schedule(step, warmup, num_training_steps),
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The mean loss of a batch, weighted by its share of the `num_items_in_batch` targets of the whole step."""
        if self._language is not None:
            with self.accelerator.autocast():
                total, targets = self._language(model, inputs)
            loss, outputs = total / targets.clamp_min(1), {}
        elif self._asks_nothing(inputs):
            given = {name: one for name, one in inputs.items() if self._loss is None or name != "labels"}
            outputs = {"logits": outputs_of(model(**given)).float()}
            loss = 0 * outputs["logits"].sum()
        elif self._loss is not None:
            asked = {name: tensor for name, tensor in inputs.items() if name != "labels"}
            outputs = {"logits": outputs_of(model(**asked)).float()}
            loss = self._loss(outputs["logits"], inputs)
        else:
            outputs = model(**inputs)
            loss = outputs["loss"]
        if num_items_in_batch is not None:
            # Those are of all processes, whose gradients are averaged.
            loss = loss * (self._targets(inputs) / num_items_in_batch) * self._processes.count
        return (loss, {**outputs, "loss": loss}) if return_outputs else loss

    def _targets(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """How many targets a batch has, as `num_items_in_batch` counts them."""
        labels = inputs["labels"]
        return (labels[..., 1:] if self._loss_shifts_labels else labels).ne(IGNORED).sum()

    def _asks_nothing(self, inputs: Mapping[str, torch.Tensor]) -> bool:
        """Whether a batch only keeps the other processes company: the mean loss of no target is no number."""
        return self._processes.count > 1 and not inputs["labels"].ne(IGNORED).any()

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Forward and backward of a batch, after the last one of a step the gradients averaged over all processes; a loss
        that is not finite ends the run with its step named."""
        parts = parts_of(inputs) if self._in_parts() and num_items_in_batch is not None else [inputs]
        losses = [
            super(AdapterTrainer, self).training_step(model, part, num_items_in_batch) for part in parts
        ]
        loss = torch.stack(losses).sum()
        failed = not torch.isfinite(loss)
        if self._processes.count > 1:
            self._failed |= failed
            failed = False
            if self.accelerator.sync_gradients:
                trained = [one for one in self._adapted.parameters() if one.requires_grad]
                failed = self._processes.average_gradients(trained, failed=self._failed)
        if failed:
            value = "no number in another process" if torch.isfinite(loss) else loss.item()
            raise TrainingError(
                f"the loss became {value} at step {self.state.global_step + 1}",
                hint="Lower learning_rate or raise warmup, and train anew.",
            )
        return loss

    def _in_parts(self) -> bool:
        alone = self.accelerator.num_processes == 1 and self.model_accepts_loss_kwargs
        return alone and cuts_up(self.args.device, own_loss=self._loss is not None)

    def evaluation_loop(self, dataloader: Any, *arguments: Any, **options: Any) -> Any:
        """See Trainer. The loss is the mean over all targets, whatever batches they came in and however many of these had
        none; of several processes each computes a share of every batch, and all learn everything."""
        self._seen = torch.zeros(2, dtype=torch.float64)
        if self._processes.count > 1:
            self._unseen = len(dataloader.dataset)
            self.gather_function = lambda gathered: gathered[: self._shown]  # prediction_step has gathered
        found = super().evaluation_loop(dataloader, *arguments, **options)
        loss, targets = self._seen.tolist()
        if targets and found.metrics is not None:
            found.metrics["eval_loss"] = loss / targets
        return found

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """See Trainer, and best_step."""
        if super()._determine_best_metric(metrics, trial):
            return True
        name = self.args.metric_for_best_model
        if name is None or not breaks_tie(self.state, metrics[f"eval_{name}"], metrics["eval_loss"]):
            return False
        self.state.best_global_step = self.state.global_step
        return True

    def prediction_step(self, model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        """See Trainer; counts the loss for `evaluation_loop`. Of several processes, what all of them make of a batch, in the
        order of its rows."""
        loss, outputs, labels = super().prediction_step(model, inputs, *arguments, **options)
        targets = inputs["labels"].ne(IGNORED).sum().to(self.accelerator.device)
        if self._processes.count > 1:  # each one's loss is its share of the batch's, times their number
            loss = None if loss is None else self._processes.mean(loss)
            targets = self._processes.mean(targets) * self._processes.count
        if targets and loss is not None:
            self._seen += torch.tensor([float(loss) * float(targets), float(targets)], dtype=torch.float64)
        if self._processes.count == 1:
            return loss, outputs, labels
        self._shown = min(self._unseen, self.args.eval_batch_size)
        self._unseen -= self._shown
        if outputs is not None:
            # One that stands in for another comes last.
            rows = self._processes.gather([*outputs])[: self._shown]
            outputs, labels = pad_sequence(rows, batch_first=True), torch.zeros(len(rows))
        return loss, outputs, labels

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: transformers' estimate walks over every parameter of the model at every step."""
        return 0
